/**
 * The only way to crash on purpose: an assertion says that the programmer, not the caller, was wrong. The worker exits and
 * the supervisor restarts it. What an outsider can cause is an `AppError` (errors.ts), never an assertion.
 */

export class AssertionError extends Error {
  override name = "AssertionError";
}

/** Throws AssertionError with `message` unless `condition` holds. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new AssertionError(message);
}
