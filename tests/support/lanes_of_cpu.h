// What a warp is on a CPU: vectors of 32 numbers in one thread. Takes the place of kernels/cuda/device.cuh.
#include <cmath>

#define DEVICE inline
#define TABLE static const
#define PARAMETERS static const

typedef real lane_real __attribute__((vector_size(32 * sizeof(real))));
typedef int lane_int __attribute__((vector_size(32 * sizeof(int))));
typedef double lane_double __attribute__((vector_size(32 * sizeof(double))));
typedef lane_int lane_truth;
#define EACH for (int k = 0; k < 32; ++k)

struct lane_pointer {
  const real* base;
  lane_int offset;
};

DEVICE lane_int lane_number() { lane_int out; EACH out[k] = k; return out; }
DEVICE lane_real spread(real x) { lane_real out; EACH out[k] = x; return out; }
DEVICE lane_real factor(lane_truth truth) { return __builtin_convertvector(truth & 1, lane_real); }
DEVICE lane_int as_integer(lane_truth truth) { return truth & 1; }
DEVICE bool any(lane_truth truth) { bool out = false; EACH out |= truth[k] != 0; return out; }

DEVICE lane_real absolute(lane_real x) { EACH x[k] = std::fabs(x[k]); return x; }
DEVICE lane_real square_root(lane_real x) { EACH x[k] = std::sqrt(x[k]); return x; }
DEVICE lane_real copy_sign(lane_real x, lane_real y) { EACH x[k] = std::copysign(x[k], y[k]); return x; }
DEVICE lane_real multiply_add(lane_real x, lane_real y, lane_real z) { return x * y + z; }
DEVICE lane_real minimum(lane_real x, lane_real bound) { return bound < x ? bound : x; }
DEVICE lane_real where_negative(lane_real x, lane_real a, lane_real b) { return x < spread(0) ? a : b; }
DEVICE lane_real where_positive(lane_real x, lane_real a, lane_real b) { return x > spread(0) ? a : b; }
DEVICE lane_real nearest(lane_real x) { EACH x[k] = std::rint(x[k]); return x; }
DEVICE lane_real power_of_two(lane_real n) { EACH n[k] = std::ldexp(real(1), int(n[k])); return n; }
DEVICE lane_double widen(lane_real x) { return __builtin_convertvector(x, lane_double); }
DEVICE lane_real narrow(lane_double x) { return __builtin_convertvector(x, lane_real); }

DEVICE lane_pointer point(const real* base, lane_int offset) { return {base, offset}; }
DEVICE lane_pointer advance(lane_pointer pointer, int count) { return {pointer.base, pointer.offset + count}; }
DEVICE lane_real read(lane_pointer p, int offset) {
  lane_real out; EACH out[k] = p.base[p.offset[k] + offset]; return out;
}
DEVICE lane_int read_integer(const int* base, lane_int offset) {
  lane_int out; EACH out[k] = base[offset[k]]; return out;
}
DEVICE lane_double read_double(const double* base, lane_int offset) {
  lane_double out; EACH out[k] = base[offset[k]]; return out;
}
DEVICE void write_where(lane_truth truth, real* base, lane_int offset, lane_real value) {
  EACH if (truth[k]) base[offset[k]] = value[k];
}
DEVICE void set_where(lane_truth truth, double* base, lane_int offset, lane_double value) {
  EACH if (truth[k]) base[offset[k]] = value[k];
}
DEVICE void add_where(lane_truth truth, double* base, lane_int offset, lane_double value) {
  EACH if (truth[k]) base[offset[k]] += value[k];
}
template <int COUNT>
DEVICE void read_statistics(lane_pointer pointer, int pixel, lane_real (&out)[COUNT]) {
  for (int n = 0; n < COUNT; ++n) out[n] = read(pointer, pixel * COUNT + n);
}

// A lane that would read beyond its segment reads itself, as on a device.
template <int SEGMENT> DEVICE lane_real from_left(lane_real value, int distance) {
  lane_real out; EACH out[k] = k % SEGMENT < distance ? value[k] : value[k - distance]; return out;
}
template <int SEGMENT> DEVICE lane_real from_right(lane_real value, int distance) {
  lane_real out; EACH out[k] = k % SEGMENT + distance >= SEGMENT ? value[k] : value[k + distance]; return out;
}
template <int SEGMENT> DEVICE lane_real from_column(lane_real value, lane_int column) {
  lane_real out; EACH out[k] = value[k - k % SEGMENT + column[k] % SEGMENT]; return out;
}
template <int SEGMENT> DEVICE lane_double sum_lanes(lane_double value) {
  for (int step = SEGMENT / 2; step; step /= 2) {
    lane_double out;
    EACH out[k] = value[k] + value[k % SEGMENT + step >= SEGMENT ? k : k + step];
    value = out;
  }
  return value;
}

#define KERNEL extern "C" void evaluate
#define SHARED
#define BATCHES(batch, count) for (int batch = 0; batch < (count); ++batch)
#define PHASE(call) for (int warp = 0; warp < WARPS; ++warp) { call; }
#define BLOCK 0
