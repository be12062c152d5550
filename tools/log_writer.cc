// log_writer: gathering, writing without waiting, going on in another file.

#include "tools/log_writer.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <climits>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <mutex>
#include <utility>

#include "tools/process.hpp"

namespace weir::inline WEIR_KERNEL::tools {

namespace {

constexpr duration gather_time = milliseconds{100};
constexpr duration tell_time = seconds{10};
constexpr std::size_t stamp_bytes = 25; // "2026-11-23T21:35:00.123Z "
constexpr std::size_t line_bytes_max = PIPE_BUF; // a pipe takes a line at once

// Right-aligned in exactly `width` characters, and what comes after them; where the next one goes.
char* write_digits(char* to, std::uint32_t value, int width, char after) noexcept {
    for (int i = width; i-- > 0; value /= 10)
        to[i] = static_cast<char>('0' + value % 10);
    to[width] = after;
    return to + width + 1;
}

// The wall clock: not the loop's, which counts from the machine's start. RFC 3339 section 5.6. Not gmtime_r(): glibc's
// reads /etc/localtime the first time, in the middle of a request.
void write_stamp(char* to) noexcept {
    using namespace std::chrono;
    timespec at{};
    ::clock_gettime(CLOCK_REALTIME, &at);
    const sys_days today = floor<days>(sys_seconds{seconds{at.tv_sec}});
    const year_month_day date{today};
    const hh_mm_ss time{sys_seconds{seconds{at.tv_sec}} - today};
    const auto digits = [](auto part) noexcept { return static_cast<std::uint32_t>(part.count()); };
    char* next = write_digits(to, static_cast<std::uint32_t>(static_cast<int>(date.year())), 4, '-');
    next = write_digits(next, static_cast<unsigned>(date.month()), 2, '-');
    next = write_digits(next, static_cast<unsigned>(date.day()), 2, 'T');
    next = write_digits(next, digits(time.hours()), 2, ':');
    next = write_digits(next, digits(time.minutes()), 2, ':');
    next = write_digits(next, digits(time.seconds()), 2, '.');
    next = write_digits(next, static_cast<std::uint32_t>(at.tv_nsec / 1'000'000), 3, 'Z');
    *next = ' ';
}

const char* why(int error) noexcept { return error == ENXIO ? "nobody reads that pipe" : std::strerror(error); }

// Bytes may be written, or there is an error to tell.
bool takes_bytes(int fd) noexcept {
    pollfd what{.fd = fd, .events = POLLOUT, .revents = 0};
    return ::poll(&what, 1, 0) != 0;
}

constinit std::mutex one_writer; // of what is polled: between poll() and write() no other thread fills it

} // namespace

int own_descriptor(const char* path) noexcept {
    const std::string_view name = path;
    int fd = -1;
    if (name == "-" || name == "/dev/stdout") fd = STDOUT_FILENO;
    else if (name == "/dev/stderr") fd = STDERR_FILENO;
    for (const std::string_view folder : {"/dev/fd/", "/proc/self/fd/"}) {
        if (!name.starts_with(folder)) continue;
        const auto [end, error] = std::from_chars(name.data() + folder.size(), name.data() + name.size(), fd);
        if (error != std::errc{} || end != name.data() + name.size() || fd < 0) return -EBADF;
    }
    return fd >= 0 && ::fcntl(fd, F_GETFD) < 0 ? -errno : fd;
}

void log_writer::open(event_loop& loop, const char* path, log_writer& trouble) noexcept {
    loop_ = &loop;
    path_ = path;
    trouble_ = &trouble;
    const int own = own_descriptor(path);
    if (own >= 0) return open_own(own);
    const int fd = own == -1 ? sys::open_append(path) : own;
    if (fd < 0) fail("--access-log %s: %s", path, why(-fd));
    fd_ = fd;
    owns_ = can_reopen_ = true;
    set_way();
}

void log_writer::open_stderr(event_loop& loop) noexcept {
    loop_ = &loop;
    open_own(STDERR_FILENO);
}

void log_writer::open_own(int fd) noexcept {
    fd_ = fd;
    set_way();
    if (way_ != way::polled) return;
    char name[32];
    std::snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    const int again = ::open(name, O_WRONLY | O_APPEND | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (again < 0) return; // no /proc, another user's terminal, a pipe that has lost its reader
    fd_ = again;
    owns_ = true;
    way_ = way::nonblocking;
}

// Of what was opened here by its name, a pipe does not block: sys::open_append().
void log_writer::set_way() noexcept {
    struct stat known {};
    if (::fstat(fd_, &known) < 0) return;
    if (S_ISREG(known.st_mode)) way_ = way::file;
    else if (S_ISSOCK(known.st_mode)) way_ = way::socket;
    else way_ = owns_ ? way::nonblocking : way::polled;
}

std::size_t log_writer::write_head(char* to) const noexcept {
    if (trouble_) {
        write_stamp(to);
        return stamp_bytes;
    }
    const std::string_view name = program_name();
    std::memcpy(to, name.data(), name.size());
    std::memcpy(to + name.size(), ": ", 2);
    return name.size() + 2;
}

bool log_writer::has_room(std::size_t text_bytes) const noexcept {
    return size_ + stamp_bytes + text_bytes + 1 <= room_bytes;
}

void log_writer::line(std::string_view text) noexcept {
    if (fd_ < 0) return;
    char whole[line_bytes_max];
    const std::size_t head = write_head(whole);
    text = text.substr(0, line_bytes_max - head - 1);
    const std::size_t bytes = head + text.size() + 1;
    if (size_ + bytes > room_bytes && !is_full_) flush(); // else it is for the timer to try again
    if (size_ + bytes > room_bytes) {
        lost_count_++;
        return;
    }
    std::memcpy(whole + head, text.data(), text.size());
    whole[bytes - 1] = '\n';
    std::memcpy(room_ + size_, whole, bytes);
    size_ += bytes;
    if (!trouble_ && !is_full_) return flush();
    if (!flush_timer_.armed()) loop_->arm_in(flush_timer_, gather_time);
}

void log_writer::print(const char* format, ...) noexcept {
    char text[line_bytes_max];
    va_list values;
    va_start(values, format);
    const int n = std::vsnprintf(text, sizeof text, format, values);
    va_end(values);
    line({text, std::min(static_cast<std::size_t>(std::max(n, 0)), sizeof text - 1)});
}

// How many bytes from there on are written by one call. What is longer than PIPE_BUF a full pipe takes in pieces, and
// another writer's come in between: pipe(7). So there it is as many lines as fit.
std::size_t log_writer::at_once(std::size_t at) const noexcept {
    const std::string_view left{room_ + at, size_ - at};
    return way_ == way::file || left.size() <= PIPE_BUF ? left.size() : left.rfind('\n', PIPE_BUF - 1) + 1;
}

void log_writer::flush() noexcept {
    flush_timer_.cancel();
    const std::size_t gone = write_out();
    std::memmove(room_, room_ + gone, size_ - gone);
    size_ -= gone;
    if (lost_count_ > 0) tell_lost();
    if (flush_timer_.armed()) return;
    if (size_ > 0) loop_->arm_in(flush_timer_, gather_time);
    else if (lost_count_ > 0) loop_->arm(flush_timer_, std::max(later(told_at_, tell_time), later(loop_->now(), gather_time)));
}

// -EAGAIN: it takes nothing now.
sys::count log_writer::write_some(std::size_t at) noexcept {
    std::unique_lock lock{one_writer, std::defer_lock};
    if (way_ == way::polled) {
        lock.lock();
        if (!takes_bytes(fd_)) return -EAGAIN;
    }
    const bool ends_line = is_torn_;
    const char* const from = ends_line ? "\n" : room_ + at;
    const std::size_t bytes = ends_line ? 1 : at_once(at);
    if (way_ != way::socket) return sys::write(fd_, from, bytes);
    ssize_t n;
    do {
        n = ::send(fd_, from, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

// How many bytes are done with: written, or lost.
std::size_t log_writer::write_out() noexcept {
    std::size_t at = 0;
    is_full_ = false;
    while (at < size_) {
        const bool was_torn = is_torn_;
        const sys::count n = write_some(at);
        if (n == -EAGAIN) {
            is_full_ = true;
            return at;
        }
        if (n <= 0) { // a full disk or a closed pipe: the proxy goes on
            is_torn_ = was_torn || (at > 0 && room_[at - 1] != '\n');
            lose_from(at);
            return size_;
        }
        is_torn_ = false;
        if (!was_torn) at += static_cast<std::size_t>(n);
    }
    return at;
}

void log_writer::lose_from(std::size_t at) noexcept {
    lost_count_ += static_cast<std::uint64_t>(std::count(room_ + at, room_ + size_, '\n'));
}

// Only where it is about to be written: a line about lost lines that is lost would hide them.
void log_writer::tell_lost() noexcept {
    log_writer& to = trouble_ ? *trouble_ : *this;
    const bool is_time = told_at_ == never || loop_->now() - told_at_ >= tell_time;
    if (!is_time || to.is_full_ || to.fd_ < 0 || !to.has_room(1024)) return;
    told_at_ = loop_->now();
    const auto count = static_cast<unsigned long long>(std::exchange(lost_count_, 0));
    if (trouble_) to.print("--access-log %s: %llu lines were lost, since they could not be written", path_, count);
    else to.print("%llu lines were lost here, since nobody took them", count);
    if (!trouble_ && lost_count_ > 0) lost_count_ = count; // that line was lost itself: once more, later
}

void log_writer::reopen() noexcept {
    if (!can_reopen_) return;
    flush();
    const int fd = sys::open_append(path_);
    if (fd < 0) {
        trouble_->print("%s cannot be opened anew, the old file is written on: %s", path_, why(-fd));
        return;
    }
    close();
    fd_ = fd;
    owns_ = can_reopen_ = true;
    is_torn_ = is_full_ = false;
    set_way();
}

void log_writer::close() noexcept {
    if (fd_ < 0) return;
    flush();
    lose_from(0);
    size_ = 0;
    told_at_ = never; // the last occasion
    if (lost_count_ > 0) tell_lost();
    flush_timer_.cancel();
    if (owns_) sys::close(fd_);
    owns_ = can_reopen_ = false;
    fd_ = -1;
}

} // namespace weir::inline WEIR_KERNEL::tools
