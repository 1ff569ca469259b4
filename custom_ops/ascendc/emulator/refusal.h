// How the emulator refuses a kernel: an exception whose text says where, in which call, what, and what is allowed.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace ascendc_emulator {

class Refusal : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// "block 3 AIV, DataCopy" of the running core, or nothing outside a kernel.
std::string WhereText();

template <typename... Parts>
[[noreturn, gnu::noinline, gnu::cold]] void Refuse(const Parts&... parts) {
  std::ostringstream message;
  message << WhereText();
  (message << ... << parts);
  throw Refusal(message.str());
}

}  // namespace ascendc_emulator
