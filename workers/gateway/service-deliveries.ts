/**
 * Routes of pulling: receive, ack, nack, renew, by any client at any gateway. A call has a result per token; a token that is no longer
 * good (or never was) is `lease_lost`, and does not spoil the others.
 */

import * as v from "valibot";
import { cloudEventOf, declarationOf, type PulledDelivery, type Queue } from "../../lib/mq/index.ts";
import { assertMayOwn, Name, whole } from "./service-inputs.ts";
import { consumer, type ServiceRoute, serviceRoute } from "./service-route.ts";

const RECEIVE_MAX = 100;
const WAIT_MS_MAX = 20_000;
/** The server cuts a connection that is silent for longer; the wait is silence. */
const IDLE_BEYOND_WAIT_S = 15;
const TOKENS_MAX = 1_000;
const LEASE_MS_MIN = 1_000;
const LEASE_MS_MAX = 12 * 3_600_000;

const OfGroup = { topic: Name, group: Name };
const Token = v.pipe(v.string("must be a token"), v.maxLength(1_024, "must be a token"));
const TOKENS_MESSAGE = `must be a list of 1 to ${TOKENS_MAX} tokens`;
const Tokens = v.pipe(
  v.array(Token, TOKENS_MESSAGE),
  v.minLength(1, TOKENS_MESSAGE),
  v.maxLength(TOKENS_MAX, TOKENS_MESSAGE),
);

const ReceiveParams = v.strictObject({
  ...OfGroup,
  max: v.exactOptional(whole(1, RECEIVE_MAX)),
  waitMs: v.exactOptional(whole(0, WAIT_MS_MAX)),
  attemptId: v.exactOptional(Name),
});
const ReceiveReply = v.strictObject({
  deliveries: v.array(
    v.strictObject({ event: v.looseObject({}), attempt: v.number(), token: v.string(), leaseUntil: v.number() }),
  ),
});
const NackParams = v.strictObject({
  ...OfGroup,
  token: Token,
  kind: v.picklist(["retry", "release", "reject"], "must be one of retry, release, reject"),
  retryAfterMs: v.exactOptional(whole(0, LEASE_MS_MAX)),
  reason: v.exactOptional(v.pipe(v.string(), v.maxLength(1_000, "must be at most 1000 characters"))),
});
const Results = v.strictObject({
  results: v.array(
    v.strictObject({
      token: v.string(),
      result: v.picklist(["ok", "lease_lost"]),
      leaseUntil: v.optional(v.number()),
    }),
  ),
});

export function deliveryRoutes(queue: Queue): readonly ServiceRoute[] {
  const one = "/v1/topics/:topic/groups/:group";

  /** Throws FORBIDDEN and NOT_FOUND. */
  async function groupOf(topic: string, group: string) {
    assertMayOwn(topic, group);
    const [found, { settings }] = await Promise.all([
      queue.catalog.topicOf(topic),
      queue.catalog.groupOf(topic, group),
    ]);
    return [found, declarationOf(group, settings)] as const;
  }

  return [
    serviceRoute(
      "post",
      `${one}/receive`,
      {
        summary: "Deliveries for the caller, held under a lease; waits up to waitMs for the first",
        scopes: consumer,
        input: ReceiveParams,
        mayLackBody: true,
        replies: { 200: ReceiveReply },
      },
      async ({ c, params: { topic, group, ...options } }) => {
        c.env.idleTimeout?.(Math.ceil((options.waitMs ?? 0) / 1_000) + IDLE_BEYOND_WAIT_S);
        const deliveries = await queue.pull.receive(...(await groupOf(topic, group)), {
          ...options,
          signal: c.req.raw.signal,
        });
        const shown = `{"deliveries":[${deliveries.map(showDelivery).join(",")}]}`;
        return c.body(shown, 200, { "content-type": "application/json" });
      },
    ),
    serviceRoute(
      "post",
      `${one}/ack`,
      {
        summary: "Finish deliveries",
        scopes: consumer,
        input: v.strictObject({ ...OfGroup, tokens: Tokens }),
        replies: { 200: Results },
      },
      async ({ c, params: { topic, group, tokens } }) =>
        c.json({ results: await queue.pull.ack(...(await groupOf(topic, group)), tokens) }),
    ),
    serviceRoute(
      "post",
      `${one}/nack`,
      {
        summary: "Give a delivery back: retry counts an attempt, release does not, reject makes it a dead letter",
        scopes: consumer,
        input: NackParams,
        replies: { 200: Results },
      },
      async ({ c, params: { topic, group, token, ...options } }) =>
        c.json({ results: [await queue.pull.nack(...(await groupOf(topic, group)), token, options)] }),
    ),
    serviceRoute(
      "post",
      `${one}/renew`,
      {
        summary: "Hold deliveries longer",
        scopes: consumer,
        input: v.strictObject({ ...OfGroup, tokens: Tokens, leaseMs: whole(LEASE_MS_MIN, LEASE_MS_MAX) }),
        replies: { 200: Results },
      },
      async ({ c, params: { topic, group, tokens, leaseMs } }) =>
        c.json({ results: await queue.pull.renew(...(await groupOf(topic, group)), tokens, leaseMs) }),
    ),
  ];
}

/** With the event's data as it was published. A message that could not be shown was buried by the pull. */
function showDelivery({ message, attempt, token, leaseUntil }: PulledDelivery<unknown>): string {
  return `{"event":${cloudEventOf(message)},${JSON.stringify({ attempt, token, leaseUntil }).slice(1)}`;
}
