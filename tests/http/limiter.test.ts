import { expect, test } from "bun:test";
import { AppError } from "../../lib/errors.ts";
import { createLimiter } from "../../lib/http/index.ts";

function waitOf(take: () => void): number {
  try {
    take();
  } catch (error) {
    expect(error).toBeInstanceOf(AppError);
    expect((error as AppError).code).toBe("RATE_LIMITED");
    return (error as AppError).retryAfterMs!;
  }
  return 0;
}

test("a burst passes, then one per interval, and the wait is told", () => {
  const limiter = createLimiter(10, 3);
  for (let i = 0; i < 3; i++) limiter.take("ada", 1_000);
  expect(waitOf(() => limiter.take("ada", 1_000))).toBe(100);
  expect(waitOf(() => limiter.take("ada", 1_040))).toBe(60);
  limiter.take("ada", 1_100);
  expect(waitOf(() => limiter.take("ada", 1_100))).toBe(100);
});

test("users do not share a bucket", () => {
  const limiter = createLimiter(1, 1);
  limiter.take("ada", 0);
  limiter.take("bob", 0);
  expect(waitOf(() => limiter.take("ada", 0))).toBe(1_000);
});

test("a flood of users keeps the memory bounded", () => {
  const limiter = createLimiter(1, 1, 100);
  for (let i = 0; i < 10_000; i++) limiter.take(`user-${i}`, 0);
  expect(limiter.size).toBe(100);
});

test("a clock that goes back neither fills nor blocks for long", () => {
  const limiter = createLimiter(10, 1);
  limiter.take("ada", 1_000_000);
  expect(waitOf(() => limiter.take("ada", 0))).toBe(100);
  limiter.take("ada", 100);
});
