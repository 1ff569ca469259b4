// The cube unit's half of the Ascend C API (Atlas A2).
#pragma once

#include "cross_core.h"
#include "cube_fixpipe.h"
#include "cube_load.h"
#include "cube_mmad.h"
