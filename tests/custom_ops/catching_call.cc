// Calls an operator's entry point as MindSpore does: a std::exception that leaves it becomes an error message.
#include <cstdint>
#include <cstdio>
#include <exception>

using Entry = int (*)(int, void**, int*, int64_t**, const char**, void*, void*);

extern "C" int CatchingCall(Entry entry, int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes,
                            char* message, int64_t message_bytes) {
  try {
    return entry(nparam, params, ndims, shapes, dtypes, nullptr, nullptr);
  } catch (const std::exception& error) {
    std::snprintf(message, message_bytes, "%s", error.what());
    return -1;
  }
}
