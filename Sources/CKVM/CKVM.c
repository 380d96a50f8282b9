#include "CKVM.h"
int ospite_kvm_placeholder(void) { return 0; }
