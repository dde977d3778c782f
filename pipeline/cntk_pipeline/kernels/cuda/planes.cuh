// Planes as wrapped tiles. A lane has one column of a tile, or two that lie side by side, with their rows in registers.
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

// One grid of positions at the tile at hand. COLUMNS, here and below, is the number of columns of a lane.
template <int COLUMNS> struct Grid {
  lane_int column[COLUMNS], right_column[COLUMNS], row, column_offset, seam;
  lane_truth counts[COLUMNS];  // whether this tile has the lane's column
};

template <int COLUMNS, int H, int W, int ROW_STEP, int COLUMN_STEP>
DEVICE Grid<COLUMNS> make_grid(lane_int dy, lane_int dx, lane_int lane, lane_truth counts) {
  Grid<COLUMNS> grid;
  grid.row = dy / ROW_STEP;
  grid.column_offset = dx / COLUMN_STEP;
  #pragma unroll
  for (int j = 0; j < COLUMNS; ++j) {
    const lane_int column = lane * COLUMNS + j;
    grid.column[j] = column - (column - (W - 1)) * as_integer(column > W - 1);
    grid.right_column[j] = grid.column[j] + grid.column_offset;
    grid.right_column[j] = grid.right_column[j] - W * as_integer(grid.right_column[j] > W - 1);
    grid.counts[j] = counts & (column < W) & (grid.row * ROW_STEP == dy) & (grid.column_offset * COLUMN_STEP == dx);
  }
  grid.seam = H - grid.row;
  return grid;
}

// A row's entry some columns further right, or left where the distance is negative, from a lane's first column.
template <int SEGMENT, int COLUMNS>
DEVICE lane_real from_distance(const lane_real (&value)[COLUMNS], int distance) {
  const int lanes = distance < 0 ? -((COLUMNS - 1 - distance) / COLUMNS) : distance / COLUMNS;
  const lane_real part = value[distance - lanes * COLUMNS];
  return lanes < 0 ? from_left<SEGMENT>(part, -lanes) : lanes > 0 ? from_right<SEGMENT>(part, lanes) : part;
}

// A row's entry of a column that each lane chooses.
template <int SEGMENT, int COLUMNS>
DEVICE lane_real from_any(const lane_real (&value)[COLUMNS], lane_int column) {
  lane_real found = from_column<SEGMENT>(value[0], column / COLUMNS);
  #pragma unroll
  for (int j = 1; j < COLUMNS; ++j) {
    found = where_positive(factor(column % COLUMNS == j), from_column<SEGMENT>(value[j], column / COLUMNS), found);
  }
  return found;
}

// Whether a seam lies between two rows, the lower number first: the factor of the one in a window of the other.
DEVICE lane_real join_rows(lane_int seam, int first, int last) {
  return last == first + 1 ? factor(seam != last) : factor((seam <= first) | (seam > last));
}

template <int H, int W, int CHANNELS, int COLUMNS>
DEVICE void input(const Arguments& a, const Pair& pair, const Grid<COLUMNS>& grid, const real* parameters,
                  lane_real (&s)[H][COLUMNS], lane_real (&t)[H][COLUMNS]) {
  #pragma unroll
  for (int j = 0; j < COLUMNS; ++j) {
    lane_pointer x = point(a.left_pixels, pair.left * (CHANNELS * H * W) + grid.column[j]);
    lane_pointer z = point(a.right_pixels, pair.right * (CHANNELS * 2 * H * W) + grid.row * W + grid.right_column[j]);
    #pragma unroll
    for (int r = 0; r < H; ++r) s[r][j] = spread(0), t[r][j] = spread(0);
    for (int c = 0; c < CHANNELS; ++c) {
      #pragma unroll
      for (int r = 0; r < H; ++r) s[r][j] = multiply_add(read(x, r * W), read(z, r * W), s[r][j]);
      x = advance(x, H * W);
      z = advance(z, 2 * H * W);
    }
    #pragma unroll
    for (int r = 0; r < H; ++r) s[r][j] = parameters[0] * s[r][j];
  }
}

// The windows of a layer: sizes, how far they reach up and to the left, strides, and whether they reach around.
template <int HEIGHT, int WIDTH, int UP, int LEFT, int DOWN_STEP, int RIGHT_STEP, bool CIRCULAR> struct Windows {
  static const int height = HEIGHT, width = WIDTH, up = UP, left = LEFT, rows = DOWN_STEP, columns = RIGHT_STEP;
  static const bool circular = CIRCULAR;
};

// The sums of a row over the columns of a window, for each column of a lane.
template <class WINDOWS, int W, int SEGMENT, int COLUMNS>
DEVICE void sum_columns(const lane_real (&value)[COLUMNS], const Grid<COLUMNS>& grid,
                        const lane_real (&joined)[WINDOWS::width][COLUMNS], lane_real (&total)[COLUMNS]) {
  const int reach = WINDOWS::width + COLUMNS - 1;
  lane_real row[reach];  // what the windows of all columns of a lane hold, so that nothing is shuffled twice
  #pragma unroll
  for (int k = 0; k < reach && !WINDOWS::circular; ++k) row[k] = from_distance<SEGMENT>(value, k - WINDOWS::left);
  #pragma unroll
  for (int j = 0; j < COLUMNS; ++j) {
    total[j] = value[j];
    #pragma unroll
    for (int k = 0; k < WINDOWS::width; ++k) {
      const int distance = k - WINDOWS::left;
      if (distance == 0) continue;
      if (WINDOWS::circular) total[j] = total[j] + from_any<SEGMENT>(value, (grid.column[j] + (distance + W)) % W);
      else total[j] = multiply_add(row[j + k], joined[k][j], total[j]);
    }
  }
}

template <int COLUMNS> DEVICE void copy(const lane_real (&from)[COLUMNS], lane_real (&to)[COLUMNS]) {
  #pragma unroll
  for (int j = 0; j < COLUMNS; ++j) to[j] = from[j];
}

// The sums over windows of a whole tile, row by row from the top; the source may be overwritten as they are taken.
template <class WINDOWS, int H, int W, int SEGMENT, int COLUMNS> struct WindowSums {
  lane_real ring[WINDOWS::height][COLUMNS], first[WINDOWS::height][COLUMNS];

  DEVICE void enter(int k, int row, const lane_real (&s)[H][COLUMNS], const Grid<COLUMNS>& grid,
                    const lane_real (&joined)[WINDOWS::width][COLUMNS]) {
    if (WINDOWS::circular) {
      if (row >= H) copy(first[row - H], ring[k]);
      else sum_columns<WINDOWS, W, SEGMENT>(s[row < 0 ? row + H : row], grid, joined, ring[k]);
    } else if (row >= 0 && row < H) {
      sum_columns<WINDOWS, W, SEGMENT>(s[row], grid, joined, ring[k]);
    } else {
      #pragma unroll
      for (int j = 0; j < COLUMNS; ++j) ring[k][j] = spread(0);
    }
  }

  DEVICE void begin(const lane_real (&s)[H][COLUMNS], const Grid<COLUMNS>& grid,
                    const lane_real (&joined)[WINDOWS::width][COLUMNS]) {
    #pragma unroll
    for (int k = 0; k < WINDOWS::height; ++k) {
      enter(k, k - WINDOWS::up, s, grid, joined);
      if (WINDOWS::circular && k >= WINDOWS::up) copy(ring[k], first[k - WINDOWS::up]);
    }
  }

  DEVICE void move(int row, const lane_real (&s)[H][COLUMNS], const Grid<COLUMNS>& grid,
                   const lane_real (&joined)[WINDOWS::width][COLUMNS]) {
    #pragma unroll
    for (int k = 0; k < WINDOWS::height; ++k) {
      if (k + WINDOWS::rows < WINDOWS::height) copy(ring[k + WINDOWS::rows], ring[k]);
      else enter(k, row * WINDOWS::rows - WINDOWS::up + k, s, grid, joined);
    }
  }

  DEVICE lane_real take(int row, int j, const Grid<COLUMNS>& grid) const {
    const int middle = row * WINDOWS::rows;
    lane_real total = WINDOWS::up < WINDOWS::height ? ring[WINDOWS::up][j] : spread(0);
    #pragma unroll
    for (int k = 0; k < WINDOWS::height; ++k) {
      const int other = middle - WINDOWS::up + k;
      if (k == WINDOWS::up) continue;
      if (WINDOWS::circular) {
        total = total + ring[k][j];
      } else if (other >= 0 && other < middle) {
        total = multiply_add(ring[k][j], join_rows(grid.seam, other, middle), total);
      } else if (other > middle && other < H) {
        total = multiply_add(ring[k][j], join_rows(grid.seam, middle, other), total);
      }
    }
    return total;
  }
};

struct NoDual {
  static const int count = 0;
};

// What follows the weights: a dual with the statistics of both positions, or nothing.
template <class DUAL, int W, int COLUMNS> struct Activation {
  lane_pointer x[COLUMNS], z[COLUMNS];
  const real* constants;

  DEVICE Activation(const Arguments& a, const Pair& pair, const Grid<COLUMNS>& grid, const int* places, lane_int level,
                    const real* parameters, int left_size, int right_size) {
    #pragma unroll
    for (int j = 0; j < COLUMNS; ++j) {
      x[j] = point(a.left_statistics, pair.left * left_size + (places[0] + grid.column[j] * DUAL::count));
      z[j] = point(a.right_statistics, level * a.level_size + pair.right * right_size +
                                           (places[1] + (grid.row * W + grid.right_column[j]) * DUAL::count));
    }
    constants = parameters + 3;
  }

  DEVICE void apply(int row, int j, lane_real& s, lane_real& slope) const {
    lane_real left[DUAL::count], right[DUAL::count];
    read_statistics(x[j], row * W, left);
    read_statistics(z[j], row * W, right);
    DUAL::at(s, left, right, constants, s, slope);
  }
};

template <int W, int COLUMNS> struct Activation<NoDual, W, COLUMNS> {
  DEVICE Activation(const Arguments&, const Pair&, const Grid<COLUMNS>&, const int*, lane_int, const real*, int, int) {}
  DEVICE void apply(int, int, lane_real&, lane_real& slope) const { slope = spread(1); }
};

// S = scale * window_sum(S) + bias, T = scale * window_sum(T) + own * S + extra; then S' and T' = slope * T.
template <class WINDOWS, int H, int W, int TO_H, int TO_W, int SEGMENT, bool TANGENT, int OWN, bool EXTRA, class DUAL,
          int COLUMNS>
DEVICE void weigh(const Grid<COLUMNS>& from, const Grid<COLUMNS>& to, const real* parameters,
                  const Activation<DUAL, TO_W, COLUMNS>& activation, const lane_real (&s)[H][COLUMNS],
                  const lane_real (&t)[H][COLUMNS], lane_real (&s_out)[TO_H][COLUMNS],
                  lane_real (&t_out)[TO_H][COLUMNS]) {
  lane_real joined[WINDOWS::width][COLUMNS];
  #pragma unroll
  for (int k = 0; k < WINDOWS::width; ++k) {
    const int d = k - WINDOWS::left;
    #pragma unroll
    for (int j = 0; j < COLUMNS; ++j) {
      joined[k][j] = d < 0 ? factor((from.column[j] >= -d) & (from.right_column[j] >= -d))
                           : factor((from.column[j] < W - d) & (from.right_column[j] < W - d));
    }
  }
  WindowSums<WINDOWS, H, W, SEGMENT, COLUMNS> s_sums, t_sums;
  s_sums.begin(s, from, joined);
  if (TANGENT) t_sums.begin(t, from, joined);
  #pragma unroll
  for (int r = 0; r < TO_H; ++r) {
    if (r > 0) {
      s_sums.move(r, s, from, joined);
      if (TANGENT) t_sums.move(r, t, from, joined);
    }
    lane_real covariances[COLUMNS], tangents[COLUMNS];
    #pragma unroll
    for (int j = 0; j < COLUMNS; ++j) {
      covariances[j] = s_sums.take(r, j, from);
      if (TANGENT) tangents[j] = t_sums.take(r, j, from);
    }
    #pragma unroll
    for (int j = 0; j < COLUMNS; ++j) {
      lane_real covariance = covariances[j], tangent = spread(0), slope;
      if (TANGENT) tangent = tangents[j];
      if (WINDOWS::columns > 1) {
        covariance = from_any<SEGMENT>(covariances, to.column[j] * WINDOWS::columns);
        if (TANGENT) tangent = from_any<SEGMENT>(tangents, to.column[j] * WINDOWS::columns);
      }
      covariance = multiply_add(spread(parameters[0]), covariance, spread(parameters[1]));
      if (TANGENT && OWN == 0) tangent = parameters[0] * tangent;
      if (TANGENT && OWN == 1) tangent = multiply_add(spread(parameters[0]), tangent, covariance);
      if (TANGENT && OWN == 2) tangent = multiply_add(spread(parameters[0]), tangent, parameters[2] * covariance);
      if (TANGENT && EXTRA) tangent = tangent + parameters[6];
      activation.apply(r, j, covariance, slope);
      s_out[r][j] = covariance;
      if (TANGENT) t_out[r][j] = tangent * slope;
    }
  }
}

template <int H, int COLUMNS>
DEVICE void add(const lane_real (&first)[H][COLUMNS], const lane_real (&second)[H][COLUMNS],
                lane_real (&out)[H][COLUMNS]) {
  #pragma unroll
  for (int r = 0; r < H; ++r) {
    #pragma unroll
    for (int j = 0; j < COLUMNS; ++j) out[r][j] = first[r][j] + second[r][j];
  }
}

// At offset 0 of a sample with itself, everything is multiplied.
template <int H, int COLUMNS>
DEVICE void mask(lane_truth itself, const real* parameters, const lane_real (&s)[H][COLUMNS],
                 lane_real (&out)[H][COLUMNS]) {
  const lane_real scale = spread(1) + factor(itself) * (parameters[0] - real(1));
  #pragma unroll
  for (int r = 0; r < H; ++r) {
    #pragma unroll
    for (int j = 0; j < COLUMNS; ++j) out[r][j] = scale * s[r][j];
  }
}

// sum += scale * weighted sum of a plane; the first lane of each group has the sum.
template <int H, int W, int GROUP, bool WEIGHTED, int COLUMNS>
DEVICE void reduce(const Grid<COLUMNS>& grid, const real* weights, const int* places, const real* parameters,
                   const lane_real (&s)[H][COLUMNS], double* sums, const Pair& pair, int part) {
  lane_double found;
  #pragma unroll
  for (int j = 0; j < COLUMNS; ++j) {
    lane_real total = spread(0);
    if (WEIGHTED) {
      const lane_pointer rows = point(weights, places[1] + grid.row * H);
      const lane_pointer columns = point(weights, places[2] + grid.column_offset * W + grid.column[j]);
      #pragma unroll
      for (int r = 0; r < H; ++r) total = multiply_add(read(rows, r), s[r][j], total);
      total = total * read(columns, 0);
    } else {
      #pragma unroll
      for (int r = 0; r < H; ++r) total = total + s[r][j];
    }
    const lane_double own = widen(where_positive(factor(grid.counts[j]), total, spread(0)) * parameters[0]);
    if (j == 0) found = own;
    else found = found + own;
  }
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
template <int H, int W, int COLUMNS>
DEVICE void save(const Grid<COLUMNS>& grid, real* tensor, lane_int begin, const lane_real (&s)[H][COLUMNS]) {
  #pragma unroll
  for (int j = 0; j < COLUMNS; ++j) {
    const lane_int at = begin + ((grid.row * W + grid.column_offset) * H) * W + grid.column[j];
    #pragma unroll
    for (int r = 0; r < H; ++r) write_where(grid.counts[j], tensor, at + r * W, s[r][j]);
  }
}

template <int H, int W, int COLUMNS>
DEVICE void load(const Grid<COLUMNS>& grid, const real* tensor, lane_int begin, lane_real (&s)[H][COLUMNS]) {
  #pragma unroll
  for (int j = 0; j < COLUMNS; ++j) {
    const lane_pointer from = point(tensor, begin + ((grid.row * W + grid.column_offset) * H) * W + grid.column[j]);
    #pragma unroll
    for (int r = 0; r < H; ++r) s[r][j] = read(from, r * W);
  }
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
