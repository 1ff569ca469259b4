// Calls the operators of a library for whoever writes calls to standard input: for libraries of another architecture,
// which an emulator of it runs (emulated_kernels.py, which knows the bytes, too).
//
// A call: name, number of arrays, and of each its type, shape and content; numbers are int64, texts and contents have
// their length before them. The answer: the length of an error message and the message, or 0 and all arrays' contents.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using Entry = int (*)(int, void**, int*, int64_t**, const char**, void*, void*);
using Arrange = void (*)(const char*, int64_t, const int64_t*, char*, int64_t, int64_t, int64_t, int64_t);


struct Array {
  std::string dtype;
  std::vector<int64_t> shape;
  char* data = nullptr;
  int64_t bytes = 0;
};

bool Read(void* target, int64_t bytes) { return std::fread(target, 1, bytes, stdin) == static_cast<size_t>(bytes); }

int64_t ReadNumber() {
  int64_t number = 0;
  if (!Read(&number, sizeof number)) std::exit(0);  // the caller has gone
  return number;
}

std::string ReadText() {
  std::string text(ReadNumber(), 0);
  if (!Read(&text[0], text.size())) std::exit(1);
  return text;
}

Array ReadArray() {
  Array array;
  array.dtype = ReadText();
  array.shape.resize(ReadNumber());
  for (int64_t& size : array.shape) size = ReadNumber();
  array.bytes = ReadNumber();
  array.data = static_cast<char*>(std::aligned_alloc(64, (array.bytes / 64 + 1) * 64));
  if (array.data == nullptr || !Read(array.data, array.bytes)) std::exit(1);
  return array;
}

void Write(const void* source, int64_t bytes) { std::fwrite(source, 1, bytes, stdout); }

void Call(void* function, std::vector<Array>& arrays) {
  std::vector<void*> params;
  std::vector<int> ndims;
  std::vector<int64_t*> shapes;
  std::vector<const char*> dtypes;
  for (Array& array : arrays) {
    params.push_back(array.data);
    ndims.push_back(static_cast<int>(array.shape.size()));
    shapes.push_back(array.shape.data());
    dtypes.push_back(array.dtype.c_str());
  }
  reinterpret_cast<Entry>(function)(static_cast<int>(arrays.size()), params.data(), ndims.data(), shapes.data(),
                                    dtypes.data(), nullptr, nullptr);
}

// rows [N, bytes], target, {columns, kind}
void ArrangeRows(void* function, std::vector<Array>& arrays) {
  const Array& rows = arrays[0];
  const auto* numbers = reinterpret_cast<const int64_t*>(arrays[2].data);
  const int64_t num_rows = rows.shape[0], row_bytes = rows.bytes / num_rows;
  reinterpret_cast<Arrange>(function)(rows.data, row_bytes, nullptr, arrays[1].data, num_rows, row_bytes, numbers[0],
                                      numbers[1]);
}

}  // namespace

int main(int, char** arguments) {
  void* const library = dlopen(arguments[1], RTLD_NOW);
  if (library == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  for (;;) {
    const std::string name = ReadText();
    std::vector<Array> arrays(ReadNumber());
    for (Array& array : arrays) array = ReadArray();
    std::string message;
    try {
      void* const function = dlsym(library, name.c_str());
      if (function == nullptr) throw std::runtime_error("no function " + name);
      (name == "PagedOpsArrangeRows" ? ArrangeRows : Call)(function, arrays);
    } catch (const std::exception& error) {
      message = error.what();
    }
    const int64_t length = static_cast<int64_t>(message.size());
    Write(&length, sizeof length);
    Write(message.data(), length);
    for (Array& array : arrays) {
      if (message.empty()) Write(array.data, array.bytes);
      std::free(array.data);
    }
    std::fflush(stdout);
  }
}
