// gateway: the whole gateway on the simulated kernel, between clients and servers that do what the input says.
//
// The input is a play (gateway_script.hpp). What must hold, whatever it is:
//   - the simulator's own invariants: nothing leaks, nothing spins, no wake-up is lost, every exchange ends;
//   - servers get requests that can be read in one way only (strict_http1.hpp), each of them one that a client sent,
//     and one that must not be repeated not twice;
//   - clients get answers that can be read in one way only, no more than they sent requests, each to its own request;
//   - afterwards a healthy client is served.

#include "fuzz/fuzz.hpp"

#include <map>

#include "fuzz/gateway_stage.hpp"
#include "fuzz/strict_http1.hpp"

using namespace weir;

namespace {

using fuzz::request;
using fuzz::stage;
using fuzz::wrong;

// ---- what was said and what was heard

// The requests at the front of what a client said, as weir's parsers read them; other targets ask whether they do
// right.
std::vector<request> requests_in(std::string_view said) {
    std::vector<request> all;
    for (;;) {
        // Within the widest limits: what a gateway with narrower ones refuses is asked for in vain.
        http1_head head;
        head.start(http1_kind::request,
                   {.start_line_bytes_max = 60'000, .head_bytes_max = 65'535, .fields_max = http1_head::fields_capacity});
        alignas(std::uint16_t) char table[http1_head::table_bytes];
        http1_head::progress end = head.parse(said);
        if (end == http1_head::progress::needs_table) {
            head.lend_table(table);
            end = head.parse(said);
        }
        if (end != http1_head::progress::done) return all;
        said.remove_prefix(head.size());
        request r{.method = std::string{head.method_text()},
                  .target = (head.path_needs_slash() ? "/" : "") + std::string{head.path()},
                  .host = std::string{head.names_host() ? head.authority() : "10.0.1.1:80"}, // else the server's own
                  .is_http_1_0 = head.version() == http1_version::v1_0};
        http1_body body;
        body.start(head.body_kind(), head.content_length());
        http1_body::step step{http1_body::what::data, 0, {}};
        while (step.is == http1_body::what::data) {
            step = body.next(said);
            r.body += step.data;
            said.remove_prefix(step.used);
        }
        r.is_complete = step.is == http1_body::what::end;
        all.push_back(r);
        if (!r.is_complete) return all;
    }
}

// The answers to a client: well-formed, each to its own request, none that nobody asked for.
void check_answers(const stage& st, const fuzz::client& c, const std::vector<request>& asked) {
    std::string_view heard = c.in;
    for (std::size_t count = 0; !heard.empty();) {
        const request* to = count < asked.size() ? &asked[count] : nullptr;
        const fuzz::strict_message m = fuzz::read_strict_response(heard, to && to->method == "HEAD");
        if (m.wrong) wrong(m.wrong, heard);
        if (!m.has_head) return; // cut off
        if (m.status == 101) return;
        // One more may be the refusal of what is no request.
        if (count > asked.size() || (count == asked.size() && m.status < 400)) wrong("an answer that nobody asked for", heard);
        if (to && to->is_http_1_0 && (m.is_chunked || m.status < 200))
            wrong("an answer that HTTP/1.0 does not know", heard);
        const bool echoes = m.echo.starts_with(st.nonce);
        if (echoes && (!to || m.echo.substr(st.nonce.size()) != to->target))
            wrong("the answer to another request", heard);
        if (!m.is_complete) return;
        count += m.status >= 200;
        heard.remove_prefix(m.size);
    }
}

bool is_part_of(const request& got, const request& asked) {
    return got.method == asked.method && got.target == asked.target && got.host == asked.host &&
           (got.is_complete ? got.body == asked.body && asked.is_complete : asked.body.starts_with(got.body));
}

// What servers got: only what clients had asked for, and not more often than it may be sent.
void check_requests(const stage& st, const std::vector<request>& asked) {
    std::map<std::string, std::size_t> left;
    for (const request& a : asked)
        left[a.key()] += a.may_be_repeated() ? 2 : 1;
    for (const auto& s : st.servers)
        for (const request& got : s->got) {
            bool known = false;
            for (const request& a : asked)
                known = known || is_part_of(got, a);
            if (!known) wrong("a server got a request that no client has sent", got.key());
            if (got.is_complete && got.could_be_answered && left[got.key()]-- == 0)
                wrong("a server got a request more often than it was sent", got.key());
        }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    stage st{fuzz::text_of(data, size)};
    st.perform();
    st.await_all_over();
    st.try_healthy();

    std::vector<request> asked;
    for (const auto& c : st.clients) {
        const std::vector<request> of_this = requests_in(c->said);
        check_answers(st, *c, of_this);
        asked.insert(asked.end(), of_this.begin(), of_this.end());
    }
    check_requests(st, asked);
    return 0;
}
