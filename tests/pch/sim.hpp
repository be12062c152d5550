// What the programs on the simulated kernel include, read once.

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <weir/sim.hpp>
