// Stands in for CANN's header of this name: a chip with as many cores as the test says.
#pragma once

#include "register/op_def_registry.h"

namespace platform_ascendc {

class PlatformAscendC {
 public:
  explicit PlatformAscendC(fe::PlatFormInfos* infos) : infos_(infos) {}
  uint32_t GetCoreNumAiv() const { return infos_->vector_cores; }
  uint32_t GetCoreNumAic() const { return infos_->cube_cores; }
  uint32_t GetLibApiWorkSpaceSize() const { return 16 * 1024 * 1024; }

 private:
  fe::PlatFormInfos* infos_;
};

}  // namespace platform_ascendc
