// Emulates the Ascend C API on a CPU: g++ compiles a kernel's source against this header instead of CANN's.
#pragma once

#include "cast.h"
#include "compare_select.h"
#include "cube.h"
#include "data_copy.h"
#include "elementwise.h"
#include "fill.h"
#include "kernel_entry.h"
#include "mask.h"
#include "multiply_add.h"
#include "pipe.h"
#include "reduce.h"
#include "reduce_all.h"
#include "sync_all.h"
