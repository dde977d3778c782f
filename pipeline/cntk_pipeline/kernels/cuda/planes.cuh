// Planes as wrapped tiles. A lane has one column of a tile, with its rows in registers.
//
// The planes of the offsets (dy, dx), (dy - H, dx), (dy, dx - W) and (dy - H, dx - W) fill one tile of H x W: position
// (r, c) of the left image meets ((r + dy) mod H, (c + dx) mod W) of the right one. Windows must not reach over the
// seams between the four planes, nor over the edges of the tile; each neighbour has a factor of 0 or 1 that says so.

struct Arguments {
  const real* left_pixels;       // (images, channels, H, W)
  const real* right_pixels;      // (images, channels, 2 H, W): rows twice, so that r + dy needs no modulo
  const real* left_statistics;   // (images, statistics); those of a position side by side
  const real* right_statistics;  // (2, images, statistics), rows twice; the second time with raised inverse deviations
  const int* pairs;              // (pairs, 3): left image, right image, how much they are the same
  int pair_count;
  int level_size;                // statistics of all right images
  double* readouts;              // (pairs, read-outs)
  real* tensors;                 // of this block's pairs
};

// The pair of a lane, and the lane's place among those of the pair.
struct Pair {
  lane_int left, right, same, number;
  lane_int lane;              // among those of the pair
  lane_int group, first_group;  // where the sums of the lane's group, and of the pair's first one, begin
  lane_int tensors;           // where the pair's tensors begin
  lane_truth counts;          // whether there is such a pair
};

// One grid of positions at the tile at hand.
struct Grid {
  lane_int column, right_column, row, column_offset, seam;
  lane_truth counts;  // whether the lane has a column of this tile
};

template <int H, int W, int ROW_STEP, int COLUMN_STEP>
DEVICE Grid make_grid(lane_int dy, lane_int dx, lane_int lane, lane_truth counts) {
  Grid grid;
  grid.row = dy / ROW_STEP;
  grid.column_offset = dx / COLUMN_STEP;
  grid.column = lane - (lane - (W - 1)) * as_integer(lane > W - 1);
  grid.right_column = grid.column + grid.column_offset;
  grid.right_column = grid.right_column - W * as_integer(grid.right_column > W - 1);
  grid.seam = H - grid.row;
  grid.counts = counts & (lane < W) & (grid.row * ROW_STEP == dy) & (grid.column_offset * COLUMN_STEP == dx);
  return grid;
}

// Whether a seam lies between two rows, the lower number first: the factor of the one in a window of the other.
DEVICE lane_real join_rows(lane_int seam, int first, int last) {
  return last == first + 1 ? factor(seam != last) : factor((seam <= first) | (seam > last));
}

template <int H, int W, int CHANNELS>
DEVICE void input(const Arguments& a, const Pair& pair, const Grid& grid, const real* parameters,
                  lane_real (&s)[H], lane_real (&t)[H]) {
  lane_pointer x = point(a.left_pixels, pair.left * (CHANNELS * H * W) + grid.column);
  lane_pointer z = point(a.right_pixels, pair.right * (CHANNELS * 2 * H * W) + grid.row * W + grid.right_column);
  #pragma unroll
  for (int r = 0; r < H; ++r) s[r] = spread(0), t[r] = spread(0);
  for (int c = 0; c < CHANNELS; ++c) {
    #pragma unroll
    for (int r = 0; r < H; ++r) s[r] = multiply_add(read(x, r * W), read(z, r * W), s[r]);
    x = advance(x, H * W);
    z = advance(z, 2 * H * W);
  }
  #pragma unroll
  for (int r = 0; r < H; ++r) s[r] = parameters[0] * s[r];
}

// The windows of a layer: sizes, how far they reach up and to the left, strides, and whether they reach around.
template <int HEIGHT, int WIDTH, int UP, int LEFT, int DOWN_STEP, int RIGHT_STEP, bool CIRCULAR> struct Windows {
  static const int height = HEIGHT, width = WIDTH, up = UP, left = LEFT, rows = DOWN_STEP, columns = RIGHT_STEP;
  static const bool circular = CIRCULAR;
};

// The sum of a row over the columns of a window.
template <class WINDOWS, int W, int SEGMENT>
DEVICE lane_real sum_columns(lane_real value, const Grid& grid, const lane_real (&joined)[WINDOWS::width]) {
  lane_real total = value;
  #pragma unroll
  for (int k = 0; k < WINDOWS::width; ++k) {
    const int distance = k - WINDOWS::left;
    if (distance == 0) continue;
    if (WINDOWS::circular) {
      total = total + from_column<SEGMENT>(value, (grid.column + (distance + W)) % W);
    } else if (distance < 0) {
      total = multiply_add(from_left<SEGMENT>(value, -distance), joined[k], total);
    } else {
      total = multiply_add(from_right<SEGMENT>(value, distance), joined[k], total);
    }
  }
  return total;
}

// The sums over windows of a whole tile, row by row from the top; the source may be overwritten as they are taken.
template <class WINDOWS, int H, int W, int SEGMENT> struct WindowSums {
  lane_real ring[WINDOWS::height], first[WINDOWS::height];

  DEVICE void enter(int k, int row, const lane_real (&s)[H], const Grid& grid,
                    const lane_real (&joined)[WINDOWS::width]) {
    if (WINDOWS::circular) {
      if (row >= H) ring[k] = first[row - H];
      else ring[k] = sum_columns<WINDOWS, W, SEGMENT>(s[row < 0 ? row + H : row], grid, joined);
    } else if (row >= 0 && row < H) {
      ring[k] = sum_columns<WINDOWS, W, SEGMENT>(s[row], grid, joined);
    } else {
      ring[k] = spread(0);
    }
  }

  DEVICE void begin(const lane_real (&s)[H], const Grid& grid, const lane_real (&joined)[WINDOWS::width]) {
    #pragma unroll
    for (int k = 0; k < WINDOWS::height; ++k) {
      enter(k, k - WINDOWS::up, s, grid, joined);
      if (WINDOWS::circular && k >= WINDOWS::up) first[k - WINDOWS::up] = ring[k];
    }
  }

  DEVICE void move(int row, const lane_real (&s)[H], const Grid& grid, const lane_real (&joined)[WINDOWS::width]) {
    #pragma unroll
    for (int k = 0; k < WINDOWS::height; ++k) {
      if (k + WINDOWS::rows < WINDOWS::height) ring[k] = ring[k + WINDOWS::rows];
      else enter(k, row * WINDOWS::rows - WINDOWS::up + k, s, grid, joined);
    }
  }

  DEVICE lane_real take(int row, const Grid& grid) const {
    const int middle = row * WINDOWS::rows;
    lane_real total = WINDOWS::up < WINDOWS::height ? ring[WINDOWS::up] : spread(0);
    #pragma unroll
    for (int k = 0; k < WINDOWS::height; ++k) {
      const int other = middle - WINDOWS::up + k;
      if (k == WINDOWS::up) continue;
      if (WINDOWS::circular) total = total + ring[k];
      else if (other >= 0 && other < middle) total = multiply_add(ring[k], join_rows(grid.seam, other, middle), total);
      else if (other > middle && other < H) total = multiply_add(ring[k], join_rows(grid.seam, middle, other), total);
    }
    return total;
  }
};

struct NoDual {
  static const int count = 0;
};

// What follows the weights: a dual with the statistics of both positions, or nothing.
template <class DUAL, int W> struct Activation {
  lane_pointer x, z;
  const real* constants;

  DEVICE Activation(const Arguments& a, const Pair& pair, const Grid& grid, const int* places, lane_int level,
                    const real* parameters, int left_size, int right_size) {
    x = point(a.left_statistics, pair.left * left_size + (places[0] + grid.column * DUAL::count));
    z = point(a.right_statistics, level * a.level_size + pair.right * right_size +
                                      (places[1] + (grid.row * W + grid.right_column) * DUAL::count));
    constants = parameters + 3;
  }

  DEVICE void apply(int row, lane_real& s, lane_real& slope) const {
    lane_real left[DUAL::count], right[DUAL::count];
    read_statistics(x, row * W, left);
    read_statistics(z, row * W, right);
    DUAL::at(s, left, right, constants, s, slope);
  }
};

template <int W> struct Activation<NoDual, W> {
  DEVICE Activation(const Arguments&, const Pair&, const Grid&, const int*, lane_int, const real*, int, int) {}
  DEVICE void apply(int, lane_real&, lane_real& slope) const { slope = spread(1); }
};

// S = scale * window_sum(S) + bias, T = scale * window_sum(T) + own * S; then S' and T' = slope * T.
template <class WINDOWS, int H, int W, int TO_H, int TO_W, int SEGMENT, bool TANGENT, int OWN, class DUAL>
DEVICE void weigh(const Grid& from, const Grid& to, const real* parameters, const Activation<DUAL, TO_W>& activation,
                  const lane_real (&s)[H], const lane_real (&t)[H], lane_real (&s_out)[TO_H], lane_real (&t_out)[TO_H]) {
  lane_real joined[WINDOWS::width];
  #pragma unroll
  for (int k = 0; k < WINDOWS::width; ++k) {
    const int d = k - WINDOWS::left;
    joined[k] = d < 0 ? factor((from.column >= -d) & (from.right_column >= -d))
                      : factor((from.column < W - d) & (from.right_column < W - d));
  }
  WindowSums<WINDOWS, H, W, SEGMENT> s_sums, t_sums;
  s_sums.begin(s, from, joined);
  if (TANGENT) t_sums.begin(t, from, joined);
  #pragma unroll
  for (int r = 0; r < TO_H; ++r) {
    if (r > 0) {
      s_sums.move(r, s, from, joined);
      if (TANGENT) t_sums.move(r, t, from, joined);
    }
    lane_real covariance = s_sums.take(r, from), tangent = spread(0), slope;
    if (TANGENT) tangent = t_sums.take(r, from);
    if (WINDOWS::columns > 1) {
      covariance = from_column<SEGMENT>(covariance, to.column * WINDOWS::columns);
      if (TANGENT) tangent = from_column<SEGMENT>(tangent, to.column * WINDOWS::columns);
    }
    covariance = multiply_add(spread(parameters[0]), covariance, spread(parameters[1]));
    if (TANGENT && OWN == 0) tangent = parameters[0] * tangent;
    if (TANGENT && OWN == 1) tangent = multiply_add(spread(parameters[0]), tangent, covariance);
    if (TANGENT && OWN == 2) tangent = multiply_add(spread(parameters[0]), tangent, parameters[2] * covariance);
    activation.apply(r, covariance, slope);
    s_out[r] = covariance;
    if (TANGENT) t_out[r] = tangent * slope;
  }
}

template <int H>
DEVICE void add(const lane_real (&first)[H], const lane_real (&second)[H], lane_real (&out)[H]) {
  #pragma unroll
  for (int r = 0; r < H; ++r) out[r] = first[r] + second[r];
}

// At offset 0 of a sample with itself, everything is multiplied.
template <int H>
DEVICE void mask(lane_truth itself, const real* parameters, const lane_real (&s)[H], lane_real (&out)[H]) {
  const lane_real scale = spread(1) + factor(itself) * (parameters[0] - real(1));
  #pragma unroll
  for (int r = 0; r < H; ++r) out[r] = scale * s[r];
}

// sum += scale * weighted sum of a plane; the first lane of each group has the sum.
template <int H, int W, int GROUP, bool WEIGHTED>
DEVICE void reduce(const Grid& grid, const real* weights, const int* places, const real* parameters,
                   const lane_real (&s)[H], double* sums, const Pair& pair, int part) {
  lane_real total = spread(0);
  if (WEIGHTED) {
    const lane_pointer rows = point(weights, places[1] + grid.row * H);
    const lane_pointer columns = point(weights, places[2] + grid.column_offset * W + grid.column);
    #pragma unroll
    for (int r = 0; r < H; ++r) total = multiply_add(read(rows, r), s[r], total);
    total = total * read(columns, 0);
  } else {
    #pragma unroll
    for (int r = 0; r < H; ++r) total = total + s[r];
  }
  const lane_double found = widen(where_positive(factor(grid.counts), total, spread(0)) * parameters[0]);
  add_where(pair.lane % GROUP == 0, sums, pair.group + (2 * places[0] + part), sum_lanes<GROUP>(found));
}

// The sum of a pair over its groups of lanes.
template <int GROUPS, int SLOTS>
DEVICE lane_real load_sum(const double* sums, lane_int first, int entry) {
  lane_double total = read_double(sums, first + entry);
  for (int k = 1; k < GROUPS; ++k) total = total + read_double(sums, first + (k * SLOTS + entry));
  return narrow(total);
}

// A whole tile between registers and memory, where a pooling finds it, or what a pooling has left.
template <int H, int W>
DEVICE void save(const Grid& grid, real* tensor, lane_int begin, const lane_real (&s)[H]) {
  const lane_int at = begin + ((grid.row * W + grid.column_offset) * H) * W + grid.column;
  #pragma unroll
  for (int r = 0; r < H; ++r) write_where(grid.counts, tensor, at + r * W, s[r]);
}

template <int H, int W>
DEVICE void load(const Grid& grid, const real* tensor, lane_int begin, lane_real (&s)[H]) {
  const lane_pointer from = point(tensor, begin + ((grid.row * W + grid.column_offset) * H) * W + grid.column);
  #pragma unroll
  for (int r = 0; r < H; ++r) s[r] = read(from, r * W);
}

// A pooling: the covariances of pooled images, each a weighted sum over what its two windows hold.
template <int H, int W, int TO_H, int TO_W, int ROW_TERMS, int COLUMN_TERMS, int LANES>
DEVICE void pool(const Pair& pair, const int* rows, const real* row_weights, const int* columns,
                 const real* column_weights, const real* source, lane_int from, real* target, lane_int to) {
  for (int round = 0; round * LANES < TO_H * TO_H * TO_W * TO_W; ++round) {
    lane_int entry = pair.lane + round * LANES;
    const lane_truth counts = entry < TO_H * TO_H * TO_W * TO_W;
    entry = entry * as_integer(counts);
    const lane_int c = entry % TO_W, r = (entry / TO_W) % TO_H;
    const lane_int dx = (entry / (TO_W * TO_H)) % TO_W, dy = entry / (TO_W * TO_H * TO_W);
    const lane_int row = (dy * TO_H + r) * ROW_TERMS, column = (dx * TO_W + c) * COLUMN_TERMS;
    lane_real total = spread(0);
    for (int i = 0; i < ROW_TERMS; ++i) {
      const lane_int y = read_integer(rows, row + i);
      lane_real part = spread(0);
      for (int j = 0; j < COLUMN_TERMS; ++j) {
        const lane_int x = read_integer(columns, column + j);
        const lane_int at = from + (((y / H) * W + x / W) * H + y % H) * W + x % W;
        part = multiply_add(read(point(column_weights, column), j), read(point(source, at), 0), part);
      }
      total = multiply_add(read(point(row_weights, row), i), part, total);
    }
    write_where(counts, target, to + entry, total);
  }
}
