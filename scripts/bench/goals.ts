/** The goals that figures are printed beside, and the two sizes of a run. */

export const GOALS = {
  deliveredOfYardstick: 0.5,
  ceilingOfYardstick: 1.3,
  p50Ms: 1.5,
  p99Ms: 6,
  groupDeliveriesPerSecond: 150_000,
  idleConnectionBytes: 6 * 1_024,
} as const;

export interface Scale {
  readonly yardstickRuns: number;
  readonly yardstickCommits: number;
  readonly ceilingMs: number;
  readonly warmMs: number;
  readonly measureMs: number;
  readonly idleConnections: number;
}

export const FULL: Scale = {
  yardstickRuns: 3,
  yardstickCommits: 400_000,
  ceilingMs: 4_000,
  // Code paths are compiled after some thousands of calls, and the first seconds pay for it.
  warmMs: 4_000,
  measureMs: 10_000,
  idleConnections: 10_000,
};

export const QUICK: Scale = {
  yardstickRuns: 1,
  yardstickCommits: 150_000,
  ceilingMs: 1_500,
  warmMs: 2_000,
  measureMs: 4_000,
  idleConnections: 1_000,
};
