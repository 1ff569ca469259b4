// Compiled into the library once.
#include "inference.h"
