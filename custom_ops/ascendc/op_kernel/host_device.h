// Marks what both the host's tiling code and the kernels call. C++11: host code includes it too.
#pragma once

// Huawei's compiler, which defines __CCE__, may compile both sides of a file, and then lets a kernel call only what is
// marked for its core. g++, which compiles op_host and the emulator, knows one side.
#if defined(__CCE__)
#define PAGED_OPS_HOST_DEVICE [host, aicore]
#else
#define PAGED_OPS_HOST_DEVICE
#endif
