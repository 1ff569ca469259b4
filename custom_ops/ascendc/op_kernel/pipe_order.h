// How one pipe waits for another where no queue stands between them.
#pragma once

#include "kernel_operator.h"

namespace paged_ops {

// What the event's second pipe is given from here on starts only when all that its first pipe was given so far is over.
template <AscendC::HardEvent kEvent>
__aicore__ inline void OrderPipes() {
  const event_t id = static_cast<event_t>(GetTPipePtr()->FetchEventID(kEvent));
  AscendC::SetFlag<kEvent>(id);
  AscendC::WaitFlag<kEvent>(id);
}

}  // namespace paged_ops
