// A coroutine with its own stack: cores take turns on one thread, and switch only where they wait.
#pragma once

#include <sys/mman.h>
#include <ucontext.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <new>
#include <vector>

namespace ascendc_emulator {

class FiberStack {
 public:
  static constexpr size_t kBytes = 512 * 1024;

  FiberStack() {
    memory_ = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory_ == MAP_FAILED) throw std::bad_alloc();
    mprotect(memory_, 4096, PROT_NONE);  // an overflow ends the process instead of writing elsewhere
  }
  ~FiberStack() { munmap(memory_, kBytes); }
  FiberStack(const FiberStack&) = delete;
  FiberStack& operator=(const FiberStack&) = delete;

  void* memory() const { return memory_; }

 private:
  void* memory_;
};

class Fiber {
 public:
  // `body` must not throw.
  Fiber(std::unique_ptr<FiberStack> stack, std::function<void()> body)
      : stack_(std::move(stack)), body_(std::move(body)) {
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack_->memory();
    context_.uc_stack.ss_size = FiberStack::kBytes;
    context_.uc_link = &caller_;
    const auto self = reinterpret_cast<uintptr_t>(this);
    makecontext(&context_, reinterpret_cast<void (*)()>(&Fiber::Enter), 2, static_cast<uint32_t>(self),
                static_cast<uint32_t>(uint64_t{self} >> 32));
  }
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  void Resume() { swapcontext(&caller_, &context_); }
  void Suspend() { swapcontext(&context_, &caller_); }
  bool finished() const { return finished_; }
  std::unique_ptr<FiberStack> TakeStack() { return std::move(stack_); }

 private:
  static void Enter(uint32_t low, uint32_t high) {
    auto* self = reinterpret_cast<Fiber*>(static_cast<uintptr_t>((uint64_t{high} << 32) | low));
    self->body_();
    self->finished_ = true;
  }

  std::unique_ptr<FiberStack> stack_;
  std::function<void()> body_;
  ucontext_t context_;
  ucontext_t caller_;
  bool finished_ = false;
};

}  // namespace ascendc_emulator
