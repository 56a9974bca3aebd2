/** Latencies in bounded memory: buckets that grow by 2 %, from 10 µs to some minutes. A percentile is off by 2 % at most. */

import type { Percentiles } from "./contract.ts";

const GROWTH = 1.02;
const FIRST_MS = 0.01;
const BUCKETS = 900;
const SCALE = 1 / Math.log(GROWTH);

export interface Latencies {
  record(ms: number): void;
  percentiles(): Percentiles;
}

export function createLatencies(): Latencies {
  const buckets = new Uint32Array(BUCKETS);
  let count = 0;
  let maxMs = 0;
  const at = (share: number) => {
    let left = Math.ceil(count * share);
    for (let i = 0; i < BUCKETS; i++) {
      left -= buckets[i]!;
      if (left <= 0) return Math.min(maxMs, FIRST_MS * GROWTH ** (i + 1));
    }
    return maxMs;
  };
  return {
    record(ms) {
      const bucket = ms <= FIRST_MS ? 0 : Math.min(BUCKETS - 1, Math.floor(Math.log(ms / FIRST_MS) * SCALE));
      buckets[bucket] = buckets[bucket]! + 1;
      count++;
      if (ms > maxMs) maxMs = ms;
    },
    percentiles() {
      if (count === 0) return { count, p50: 0, p95: 0, p99: 0, max: 0 };
      return { count, p50: at(0.5), p95: at(0.95), p99: at(0.99), max: maxMs };
    },
  };
}
