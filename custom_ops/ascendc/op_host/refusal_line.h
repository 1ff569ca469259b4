// How the line that says why a tiling function fails comes to the user. C++11, see host_checks.h.
#pragma once

#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>

namespace paged_host {

// CANN and MindSpore report that some tiling failed, and nothing of why: the line stands on stderr, and alone in the file
// that MINDSPORE_PAGED_REFUSAL names, from which the runtime takes it into its own error (custom_ops/process_folder.py).
// CANN's error manager would carry it too, but each version has another header for it, and another library to link.
inline void TellRefusal(const std::string& line) {
  std::cerr << line + "\n";
  const char* path = std::getenv("MINDSPORE_PAGED_REFUSAL");
  if (path != nullptr) std::ofstream(path) << line << "\n";
}

}  // namespace paged_host
