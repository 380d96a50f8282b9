#ifndef OSPITE_CKVM_H
#define OSPITE_CKVM_H
#include <stdint.h>
int ospite_kvm_placeholder(void);
#endif
