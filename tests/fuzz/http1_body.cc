// http1_body: whatever the bytes are, a body is taken out of its framing as a slow decoder written from the RFC's
// grammar does it, however the bytes are cut, and not one byte of the next message is touched.
//
//     the first byte of an input says which body:  c chunked  C chunked, tight limits  n none  u until close
//     or how long it is:                           0..9, the rest is its body

#include "fuzz/fuzz.hpp"

#include <string>

#include "proto/http1_body.hpp"

using namespace weir;

namespace {

using what = http1_body::what;

struct task {
    http1_body_kind kind = http1_body_kind::chunked;
    std::uint64_t length = 0;
    http1_body_limits limits{};
};

struct outcome {
    what end = what::more; // more: the input ran out
    std::string data{};
    std::size_t used = 0;
    bool operator==(const outcome&) const = default;
};

// ---- the reference: RFC 9112 section 7.1, one function per rule, byte by byte

class reference {
  public:
    reference(const task& job, std::string_view in) : job_(job), in_(in) {}

    outcome decode() {
        verdict v = verdict::ok;
        switch (job_.kind) {
        case http1_body_kind::none: break;
        case http1_body_kind::length:
            v = job_.length > job_.limits.body_bytes_max ? verdict::bad : octets(job_.length);
            break;
        case http1_body_kind::chunked: v = chunked_body(); break;
        case http1_body_kind::until_close: v = until_close(); break;
        }
        result_.used = at_;
        result_.end = v == verdict::ok ? what::end : v == verdict::bad ? what::bad : what::more;
        return result_;
    }

  private:
    enum class verdict { ok, more, bad };
    static constexpr int no_byte = -1;

    int peek() const { return at_ < in_.size() ? static_cast<unsigned char>(in_[at_]) : no_byte; }
    static bool is_text(int byte) { return byte == '\t' || (byte >= ' ' && byte != 0x7f); }
    static bool is_blank(int byte) { return byte == ' ' || byte == '\t'; }
    static bool is_tchar(int byte) { // RFC 9110 section 5.6.2
        const auto in = [byte](int first, int last) { return byte >= first && byte <= last; };
        const bool is_mark = byte > 0 && std::string_view{"!#$%&'*+-.^_`|~"}.find(static_cast<char>(byte)) < 15;
        return in('0', '9') || in('a', 'z') || in('A', 'Z') || is_mark;
    }

    verdict literal(char byte) {
        if (peek() == no_byte) return verdict::more;
        if (peek() != byte) return verdict::bad;
        at_++;
        return verdict::ok;
    }
    verdict crlf() {
        const verdict v = literal('\r');
        return v == verdict::ok ? literal('\n') : v;
    }

    verdict octets(std::uint64_t count) {
        for (; count > 0; count--) {
            if (peek() == no_byte) return verdict::more;
            result_.data.push_back(static_cast<char>(peek()));
            at_++;
        }
        return verdict::ok;
    }

    verdict until_close() {
        if (in_.size() > job_.limits.body_bytes_max) return verdict::bad;
        at_ = in_.size();
        result_.data = in_;
        return verdict::more;
    }

    // chunked-body = *chunk last-chunk trailer-section CRLF
    verdict chunked_body() {
        for (;;) {
            std::uint64_t size = 0;
            verdict v = chunk_size(size);
            if (v == verdict::ok) v = chunk_ext();
            if (v == verdict::ok) v = literal('\n'); // its CR is what chunk_ext() ended at
            if (v != verdict::ok) return v;
            if (size > job_.limits.body_bytes_max - result_.data.size()) return refuse_last();
            if (size == 0) return trailers();
            v = octets(size);
            if (v == verdict::ok) v = crlf();
            if (v != verdict::ok) return v;
        }
    }

    // A fact that only a whole line shows is held against its last byte, which is not taken then.
    verdict refuse_last() {
        at_--;
        return verdict::bad;
    }

    verdict chunk_size(std::uint64_t& size) {
        static constexpr std::string_view digits = "0123456789abcdef0123456789ABCDEF";
        for (unsigned count = 0;; count++) {
            if (peek() == no_byte) return verdict::more;
            const std::size_t digit = digits.find(static_cast<char>(peek()));
            if (digit == digits.npos) return count > 0 ? verdict::ok : verdict::bad;
            if (count == http1_body::chunk_digits_max) return verdict::bad;
            size = size * 16 + digit % 16;
            if (size > job_.limits.chunk_bytes_max) return verdict::bad;
            at_++;
        }
    }

    // One byte of an extension, if the limits have room for it.
    verdict take_of_extension() {
        if (++of_chunk_ > job_.limits.extension_bytes_max) return verdict::bad;
        if (++of_message_ > job_.limits.extensions_bytes_max) return verdict::bad;
        at_++;
        return verdict::ok;
    }
    verdict blanks() {
        verdict v = verdict::ok;
        while (v == verdict::ok && is_blank(peek()))
            v = take_of_extension();
        return v != verdict::ok ? v : peek() == no_byte ? verdict::more : verdict::ok;
    }
    verdict token() {
        if (peek() == no_byte) return verdict::more;
        if (!is_tchar(peek())) return verdict::bad;
        verdict v = verdict::ok;
        while (v == verdict::ok && is_tchar(peek()))
            v = take_of_extension();
        return v != verdict::ok ? v : peek() == no_byte ? verdict::more : verdict::ok;
    }
    verdict quoted_string() {
        verdict v = take_of_extension();
        for (bool escaped = false; v == verdict::ok;) {
            const int byte = peek();
            if (byte == no_byte) return verdict::more;
            if (!is_text(byte)) return verdict::bad;
            v = take_of_extension();
            if (!escaped && byte == '"') return v;
            escaped = !escaped && byte == '\\';
        }
        return v;
    }

    // chunk-ext = *( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] ), and the CR after it. White space
    // that nothing follows is not part of it.
    verdict chunk_ext() {
        of_chunk_ = 0;
        for (bool blank = false;;) {
            const std::size_t before = at_;
            verdict v = blanks();
            blank = blank || at_ != before;
            if (v != verdict::ok) return v;
            if (peek() == '\r' && !blank) {
                at_++;
                return verdict::ok;
            }
            if (peek() != ';') return verdict::bad;
            v = take_of_extension();
            if (v == verdict::ok) v = blanks();
            if (v == verdict::ok) v = token();
            if (v != verdict::ok) return v;
            const std::size_t after_name = at_;
            v = blanks();
            if (v != verdict::ok) return v;
            blank = at_ != after_name;
            if (peek() != '=') continue;
            v = take_of_extension();
            if (v == verdict::ok) v = blanks();
            if (v == verdict::ok) v = peek() == '"' ? quoted_string() : token();
            if (v != verdict::ok) return v;
            blank = false;
        }
    }

    verdict take_of_trailer() {
        if (++of_trailer_ > job_.limits.trailer_bytes_max) return verdict::bad;
        at_++;
        return verdict::ok;
    }

    // *( field-name ":" field-value CRLF ) CRLF
    verdict trailers() {
        while (peek() != '\r') {
            if (peek() == no_byte) return verdict::more;
            if (!is_tchar(peek())) return verdict::bad;
            const verdict v = trailer_line();
            if (v != verdict::ok) return v;
        }
        return crlf();
    }
    verdict trailer_line() {
        verdict v = verdict::ok;
        while (v == verdict::ok && is_tchar(peek()))
            v = take_of_trailer();
        if (v == verdict::ok) v = take_of_trailer_if(':');
        while (v == verdict::ok && is_text(peek()))
            v = take_of_trailer();
        if (v == verdict::ok) v = take_of_trailer_if('\r');
        if (v == verdict::ok) v = take_of_trailer_if('\n');
        return v;
    }
    verdict take_of_trailer_if(char byte) {
        if (peek() == no_byte) return verdict::more;
        return peek() == byte ? take_of_trailer() : verdict::bad;
    }

    const task& job_;
    std::string_view in_;
    std::size_t at_ = 0;
    outcome result_{};
    std::uint32_t of_chunk_ = 0, of_message_ = 0, of_trailer_ = 0;
};

// ---- the decoder, fed in pieces

class feeder {
  public:
    explicit feeder(const task& job) : is_until_close_(job.kind == http1_body_kind::until_close) {
        body_.start(job.kind, job.length, job.limits);
    }

    bool wants_more() const { return result_.end == what::more; }

    void feed(std::string_view bytes) {
        const fuzz::alone piece{bytes};
        std::string_view in = piece.view();
        for (http1_body::step step{what::data, 0, {}}; step.is == what::data; in.remove_prefix(step.used)) {
            step = body_.next(in);
            EXPECT(step.used <= in.size());
            EXPECT(step.data.empty() == (step.is != what::data));
            if (step.is == what::data) EXPECT(step.data.data() + step.data.size() == in.data() + step.used);
            if (step.is == what::more) EXPECT(step.used == in.size());
            result_.data.append(step.data);
            result_.used += step.used;
            result_.end = step.is;
        }
    }

    outcome end() {
        EXPECT(body_.done() == (result_.end == what::end));
        EXPECT(body_.received() == result_.data.size());
        EXPECT((body_.error() != http1_body_error::none) == (result_.end == what::bad));
        if (result_.end == what::bad) EXPECT(status_of(body_.error()) >= 400);
        else
            EXPECT((body_.finish() == http1_body::finish_result::complete) ==
                   (result_.end == what::end || is_until_close_));
        return result_;
    }

  private:
    http1_body body_;
    outcome result_{};
    bool is_until_close_;
};

outcome decode_whole(const task& job, std::string_view bytes) {
    feeder f{job};
    f.feed(bytes);
    return f.end();
}

outcome decode_cut(const task& job, std::string_view bytes, std::size_t cut) {
    feeder f{job};
    f.feed(bytes.substr(0, cut));
    if (f.wants_more()) f.feed(bytes.substr(cut));
    return f.end();
}

outcome decode_byte_by_byte(const task& job, std::string_view bytes) {
    feeder f{job};
    f.feed({});
    for (std::size_t at = 0; at < bytes.size() && f.wants_more(); at++)
        f.feed(bytes.substr(at, 1));
    return f.end();
}

task task_of(char first) {
    if (first >= '0' && first <= '9')
        return {.kind = http1_body_kind::length, .length = static_cast<unsigned>(first - '0')};
    if (first == 'n') return {.kind = http1_body_kind::none};
    if (first == 'u') return {.kind = http1_body_kind::until_close};
    if (first != 'C') return {};
    return {.limits = {.body_bytes_max = 20,
                       .chunk_bytes_max = 16,
                       .extension_bytes_max = 8,
                       .extensions_bytes_max = 12,
                       .trailer_bytes_max = 12}};
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    const std::string_view bytes = fuzz::text_of(data, size).substr(1);
    const task job = task_of(static_cast<char>(data[0]));

    const outcome expected = reference{job, bytes}.decode();
    EXPECT(decode_whole(job, bytes) == expected);
    // Data is handed out in parts then, but nothing else is different; until close nothing is refused before its end.
    EXPECT(decode_byte_by_byte(job, bytes) == expected);
    fuzz::for_each_cut(bytes.size(), [&](std::size_t cut) { EXPECT(decode_cut(job, bytes, cut) == expected); });
    if (expected.end == what::end) EXPECT(decode_whole(job, bytes.substr(0, expected.used)) == expected);
    return 0;
}
