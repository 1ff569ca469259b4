// The outputs of the emulated ops are shaped as those of the CPU ops.
#include "op/inference.h"
