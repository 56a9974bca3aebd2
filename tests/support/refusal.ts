/** What a call is refused with. */

import { expect } from "bun:test";
import { AppError } from "../../lib/errors.ts";

/** The AppError that `call` rejects with; fails the test when it resolves or rejects with anything else. */
export async function refusal(call: Promise<unknown>): Promise<AppError> {
  const error = await call.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(AppError);
  return error as AppError;
}
