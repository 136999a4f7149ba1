// Checks of scalar arguments that several ops have.
#pragma once

#include <cmath>

#include "core/match.h"

namespace phi3 {

inline void check_eps(const Matcher& matcher,
                      float eps,
                      Matcher::Where where = Matcher::Where::current()) {
  matcher.check(std::isfinite(eps) && eps >= 0,
                where,
                "eps is ",
                eps,
                ", expected a finite number of at least 0");
}

inline void check_scale(const Matcher& matcher,
                        float scale,
                        Matcher::Where where = Matcher::Where::current()) {
  matcher.check(std::isfinite(scale) && scale > 0,
                where,
                "scale is ",
                scale,
                ", expected a finite positive number");
}

}  // namespace phi3
