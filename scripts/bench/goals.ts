/** The goals that figures are printed beside, and the two sizes of a run. */

export const GOALS = {
  deliveredOfYardstick: 0.5,
  ceilingOfYardstick: 1.3,
  p50Ms: 1.5,
  p99Ms: 6,
  groupDeliveriesPerSecond: 150_000,
  idleConnectionBytes: 6 * 1_024,
} as const;

/** Of the queue: rates end to end, as shares of the bare commands' and of BullMQ's. */
export const MQ_GOALS = {
  concurrentOfRaw: 0.6,
  orderedOfRaw: 0.4,
  ofBullmq: 8,
  /** Of what the first group costs, publishing included. */
  extraGroupOfFirst: 0.15,
  /** A long backlog drains at the rate of a short one. */
  backlogOfShort: 0.9,
  /** What a key that always fails leaves to the others. */
  besidePoison: 0.9,
} as const;

/** Of the archive on SQLite with a million entries. */
export const ARCHIVE_GOALS = {
  historyP99Ms: 5,
  searchP99Ms: 50,
} as const;

export const FANOUT_GOALS = {
  /** A commit in a group of 10 000, of one in a group of 10. */
  commitOfSmallest: 1.2,
} as const;

export interface FanoutScale {
  readonly commitMs: number;
  readonly warmMs: number;
  readonly measureMs: number;
}

export const FANOUT_FULL: FanoutScale = { commitMs: 4_000, warmMs: 3_000, measureMs: 10_000 };
export const FANOUT_QUICK: FanoutScale = { commitMs: 1_500, warmMs: 1_500, measureMs: 4_000 };

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

export interface MqScale {
  /** Median of so many. */
  readonly runs: number;
  readonly warm: number;
  readonly messages: number;
  readonly backlogShort: number;
  readonly backlog: number;
  readonly bullmqWarm: number;
  readonly bullmqMessages: number;
}

export const MQ_FULL: MqScale = {
  runs: 3,
  warm: 50_000,
  messages: 300_000,
  backlogShort: 10_000,
  backlog: 1_000_000,
  bullmqWarm: 5_000,
  bullmqMessages: 40_000,
};

export const MQ_QUICK: MqScale = {
  runs: 1,
  warm: 30_000,
  messages: 100_000,
  backlogShort: 10_000,
  backlog: 300_000,
  bullmqWarm: 3_000,
  bullmqMessages: 10_000,
};
