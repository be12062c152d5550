#pragma once
// list: an intrusive doubly linked list. The elements carry their own links, so nothing is allocated and an
// element leaves its list in two stores, without knowing which list it is.
//
//     struct job { list_hook hook; };
//     list<&job::hook> jobs;
//
// A hook is linked or not; both are visible. An element that dies leaves its list, and a list that dies lets go of its
// elements, so the two may go in any order. A linked element is pinned: hooks are neither copied nor moved.

#include <cstddef>
#include <cstdint>

#include "core/contract.hpp"

namespace weir::inline WEIR_KERNEL {

struct list_hook {
    list_hook* prev = nullptr; // null exactly when not linked
    list_hook* next = nullptr;

    list_hook() noexcept = default;
    list_hook(const list_hook&) = delete;
    list_hook& operator=(const list_hook&) = delete;
    ~list_hook() { unlink(); }

    bool linked() const noexcept { return prev != nullptr; }

    // Leaves whatever list it is in. It may be in none.
    void unlink() noexcept {
        if (!linked()) return;
        prev->next = next;
        next->prev = prev;
        prev = next = nullptr;
    }

    // Joins the ring in front of `at`.
    void link_before(list_hook& at) noexcept {
        EXPECT(!linked());
        prev = at.prev;
        next = &at;
        at.prev->next = this;
        at.prev = this;
    }
};

namespace detail {
template <class Member>
struct member_of;
template <class Owner, class Field>
struct member_of<Field Owner::*> {
    using owner = Owner;
    using field = Field;
};
} // namespace detail

// The object of which `field` is the member named by Member: container_of<&job::hook>(h).
template <auto Member>
auto& container_of(typename detail::member_of<decltype(Member)>::field& field) noexcept {
    using owner = typename detail::member_of<decltype(Member)>::owner;
    // A member's distance from its object is the same in every object; this one is never constructed or read.
    alignas(owner) static char shape[sizeof(owner)];
    const auto base = reinterpret_cast<std::uintptr_t>(shape);
    const auto at = reinterpret_cast<std::uintptr_t>(&(reinterpret_cast<owner*>(shape)->*Member));
    return *reinterpret_cast<owner*>(reinterpret_cast<char*>(&field) - (at - base));
}

template <auto Hook>
class list {
  public:
    using value_type = typename detail::member_of<decltype(Hook)>::owner;

    list() noexcept { ends_.prev = ends_.next = &ends_; }
    list(const list&) = delete;
    list& operator=(const list&) = delete;
    ~list() {
        while (pop_front()) {}
        ends_.prev = ends_.next = nullptr;
    }

    bool empty() const noexcept { return ends_.next == &ends_; }

    // Null when empty.
    value_type* front() noexcept { return element(ends_.next); }
    value_type* back() noexcept { return element(ends_.prev); }

    bool is_last(const value_type& value) const noexcept { return (value.*Hook).next == &ends_; }

    // The element behind `value`, null at the end. `value` must be in this list.
    value_type* after(value_type& value) noexcept { return element((value.*Hook).next); }

    void push_front(value_type& value) noexcept { (value.*Hook).link_before(*ends_.next); }
    void push_back(value_type& value) noexcept { (value.*Hook).link_before(ends_); }

    // Takes the first element out. Null when empty.
    value_type* pop_front() noexcept {
        value_type* first = front();
        if (first) (first->*Hook).unlink();
        return first;
    }

    // Moves all of `other` to the end of this list, in order, in O(1).
    void take_all(list& other) noexcept {
        if (other.empty()) return;
        list_hook* first = other.ends_.next;
        list_hook* last = other.ends_.prev;
        other.ends_.prev = other.ends_.next = &other.ends_;
        first->prev = ends_.prev;
        ends_.prev->next = first;
        last->next = &ends_;
        ends_.prev = last;
    }

  private:
    value_type* element(list_hook* hook) noexcept { return hook == &ends_ ? nullptr : &container_of<Hook>(*hook); }

    list_hook ends_; // the ring's fixed point: its next is the first element, its prev the last
};

} // namespace weir::inline WEIR_KERNEL
