// What most test files include, read once: doctest takes a compiler longer than the tests do.

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "support/rig.hpp"
