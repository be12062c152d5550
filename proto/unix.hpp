#pragma once
// unix: the ctrl table of unix stream sockets, and their addresses as text.

#include <string_view>

#include "core/ctrl.hpp"

namespace weir::inline WEIR_KERNEL {

// Listening takes over the path of a socket that nobody listens on any more; EADDRINUSE if somebody does, and whatever
// else lives at the path is left alone. Two processes that start at the same moment on the same abandoned path may both
// find it abandoned: whoever may be started twice needs a lock of its own. Drains by reading: MSG_TRUNC does not
// discard here, unix(7).
extern const ctrl unix_stream;

// "unix:/run/x.sock", "unix:@abstract". EINVAL: not such a text; ENAMETOOLONG: more than 107 bytes.
result<endpoint> parse_unix(std::string_view text) noexcept;

} // namespace weir::inline WEIR_KERNEL
