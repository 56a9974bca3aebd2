/**
 * Checks of half messages that have a check URL: the URL is asked what became of the transaction. The call is signed with the secret of
 * the producer group; its body is the transaction with its message, its `webhook-id` the transaction and the number of the check.
 *
 *   200 {"answer": "commit" | "rollback" | "unknown"}    done as answered
 *   anything else                                        no answer: the next check asks again
 *
 * It stands here and not in the scheduler, for it calls the outside.
 */

import * as v from "valibot";
import type { Clock } from "../../lib/clock.ts";
import { AppError } from "../../lib/errors.ts";
import { type Outbound, signWebhook } from "../../lib/http/outbound.ts";
import { type Check, type CheckAnswer, halfJson, type Queue } from "../../lib/mq/index.ts";
import { checkSecretOf, type Secrets } from "../../lib/secrets.ts";
import type { Service } from "../../lib/service.ts";

const Reply = v.object({
  answer: v.pipe(
    v.string(),
    v.transform((text) => text.toLowerCase()),
    v.picklist(["commit", "rollback", "unknown"]),
  ),
});

interface CheckParts {
  readonly queue: Queue;
  readonly outbound: Outbound;
  readonly secrets: Secrets;
  readonly clock: Clock;
}

export function createHttpChecks({ queue, outbound, secrets, clock }: CheckParts): Service {
  // A call under way when this process stops ends within its own time, or with the process: then the next check asks.
  const { signal } = new AbortController();

  async function call(check: Check): Promise<CheckAnswer> {
    const body = halfJson(check);
    const secret = checkSecretOf(secrets, check.producerGroup);
    const signature = signWebhook({ id: `${check.id}.${check.checks}`, nowMs: clock.now(), body, secrets: [secret] });
    const headers = { "content-type": "application/json", "user-agent": "Skein", ...signature };
    const result = await outbound.call({ url: check.checkUrl!, headers, body }, signal);
    if (result.kind === "later") throw noAnswer("was held back, for its host does not answer");
    if (result.kind !== "answer") throw noAnswer(result.reason);
    if (result.status !== 200) throw noAnswer(`answered ${result.status}`);
    return readAnswer(result.body);
  }

  return queue.transactions.createCheckCaller({ call });
}

function readAnswer(body: string | undefined): CheckAnswer {
  let parsed: unknown;
  try {
    parsed = JSON.parse(body ?? "");
  } catch {
    throw noAnswer("answered with a body that is not JSON");
  }
  const reply = v.safeParse(Reply, parsed);
  if (!reply.success) throw noAnswer("answered with a body that has no answer");
  return reply.output.answer;
}

function noAnswer(reason: string): AppError {
  return new AppError("OVERLOADED", `the check URL ${reason}`);
}
