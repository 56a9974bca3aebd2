/**
 * Token buckets, one per user: `rate` a second on average, `burst` at once. Memory is bounded and needs no timer: a bucket
 * that has filled up again says nothing and is dropped when room is needed. Of one process: it protects this gateway, it
 * does not count what a user does through another.
 */

import { AppError } from "../errors.ts";

/** Buckets remembered, some 120 bytes each. Beyond it the one that was begun first is forgotten, that is: filled. */
const BUCKETS_MAX = 100_000;

export interface Limiter {
  /** Takes one. Throws RATE_LIMITED with the wait in ms until there is one again. */
  take(key: string, nowMs: number): void;
  /** Buckets remembered. */
  readonly size: number;
}

interface Bucket {
  left: number;
  atMs: number;
}

export function createLimiter(rate: number, burst: number, bucketsMax = BUCKETS_MAX): Limiter {
  const buckets = new Map<string, Bucket>();
  const perMs = rate / 1_000;

  function open(key: string, nowMs: number): Bucket {
    if (buckets.size >= bucketsMax) buckets.delete(buckets.keys().next().value!);
    const bucket = { left: burst, atMs: nowMs };
    buckets.set(key, bucket);
    return bucket;
  }

  return {
    take(key, nowMs) {
      const bucket = buckets.get(key) ?? open(key, nowMs);
      // A clock that was set back fills nothing and empties nothing.
      const passedMs = Math.max(0, nowMs - bucket.atMs);
      bucket.left = Math.min(burst, bucket.left + passedMs * perMs);
      bucket.atMs = nowMs;
      if (bucket.left < 1) {
        const retryAfterMs = Math.ceil((1 - bucket.left) / perMs);
        throw new AppError("RATE_LIMITED", `At most ${rate} a second and ${burst} at once`, { retryAfterMs });
      }
      bucket.left -= 1;
    },
    get size() {
      return buckets.size;
    },
  };
}
