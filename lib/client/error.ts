/** The one error of the client. */

import type { Issue } from "./wire.ts";

/**
 * A call that did not succeed. `outcome` says what the caller may conclude: `failed`: nothing happened; `unknown`: it may
 * have happened, and only sending it again under the same id is safe. `code` is one of the server's published codes, or of the
 * client's own: CLOSED, DEADLINE_EXCEEDED.
 */
export class ClientError extends Error {
  override readonly name = "ClientError";
  readonly code: string;
  readonly outcome: "failed" | "unknown";
  readonly issues: readonly Issue[];

  constructor(
    code: string,
    message: string,
    outcome: "failed" | "unknown" = "failed",
    issues: ClientError["issues"] = [],
  ) {
    super(message);
    this.code = code;
    this.outcome = outcome;
    this.issues = issues;
  }
}
