#pragma once
// result: a value, or the errno with which the system refused it.
//
// Only for what the system may refuse. A caller's mistake is an EXPECT (contract.hpp); a normal ending is the
// function's own enum. T needs a default value, which stands in the object while there is an error.

#include <utility>

#include "core/contract.hpp"

namespace weir::inline WEIR_KERNEL {

// An errno on its way into a result: `return failure{EMFILE};`
struct failure {
    int code; // an errno value, > 0
};

template <class T>
class [[nodiscard]] result {
  public:
    result(T value) noexcept : value_(std::move(value)) {}
    result(failure why) noexcept : error_(why.code) { EXPECT(why.code > 0); }

    bool ok() const noexcept { return error_ == 0; }
    explicit operator bool() const noexcept { return ok(); }

    // 0 when ok.
    int error() const noexcept { return error_; }

    // Only when ok.
    T& value() & noexcept {
        EXPECT(ok(), error_text(error_));
        return value_;
    }
    const T& value() const& noexcept {
        EXPECT(ok(), error_text(error_));
        return value_;
    }
    // By value: a reference bound to the value of a temporary result does not dangle.
    T value() && noexcept {
        EXPECT(ok(), error_text(error_));
        return std::move(value_);
    }

  private:
    T value_{};
    int error_ = 0;
};

template <>
class [[nodiscard]] result<void> {
  public:
    result() noexcept = default;
    result(failure why) noexcept : error_(why.code) { EXPECT(why.code > 0); }

    bool ok() const noexcept { return error_ == 0; }
    explicit operator bool() const noexcept { return ok(); }
    int error() const noexcept { return error_; }

  private:
    int error_ = 0;
};

} // namespace weir::inline WEIR_KERNEL
