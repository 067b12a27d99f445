// Cuts a call into tasks and runs them on torch's threads.
#pragma once

#include "attention/problem.h"

namespace alternet {

enum class MapName { forward, tangent, backward, backward_tangent };

/// The plan of a map for the shapes of `problem`, none of which is zero.
Plan make_plan(const Problem& problem, MapName map);

/// Runs every task of `problem`, whose plan is made, in the arithmetic type `real`.
void run(Problem& problem, MapName map, Element real);

}  // namespace alternet
