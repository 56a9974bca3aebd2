/**
 * Routes of delayed messages (published with `deliverAt`): list, look, move, cancel, send now. The answer to an order is always one of
 * `ok`, `already_fired`, `not_found`, and true. Only who may publish to a message's topic has to do with it; to others it is not there.
 */

import * as v from "valibot";
import { AppError } from "../../lib/errors.ts";
import { type Caller, hasScope, type Scope } from "../../lib/http/index.ts";
import type { DelayedMessage, DelayedResult, Queue } from "../../lib/mq/index.ts";
import { isReserved } from "../../lib/rpc/index.ts";
import { Name, Time, whole } from "./service-inputs.ts";
import { type ServiceRoute, serviceRoute } from "./service-route.ts";

const PAGE_MAX = 500;

const ListParams = v.strictObject({
  topic: v.exactOptional(Name),
  limit: v.exactOptional(whole(1, PAGE_MAX)),
  cursor: v.exactOptional(v.pipe(v.string(), v.maxLength(100, "must be the `next` of another page"))),
});
const DelayedReply = v.strictObject({
  id: v.string(),
  state: v.picklist(["pending", "fired", "cancelled", "dropped"]),
  topic: v.string(),
  type: v.string(),
  key: v.optional(v.string()),
  deliverAt: v.number(),
  createdAt: v.number(),
  expireAt: v.optional(v.number()),
  endedAt: v.optional(v.number()),
  reason: v.optional(v.string()),
});
const ListReply = v.strictObject({ messages: v.array(DelayedReply), next: v.optional(v.string()) });
const Result = v.strictObject({ result: v.picklist(["ok", "already_fired", "not_found"]) });
const OfId = v.strictObject({ id: Name });

/** Of whichever topic: which one it must be is known only with the message. */
const anyPublisher = (): readonly Scope[] => ["publish:", "admin"];

export function delayedRoutes({ delayed }: Queue): readonly ServiceRoute[] {
  const one = "/v1/delayed/:id";

  async function find(caller: Caller, id: string): Promise<DelayedMessage | undefined> {
    const found = await delayed.get(id);
    return found && maySee(caller, found) ? found : undefined;
  }
  /** An order, when the message is the caller's to order about. */
  async function order(caller: Caller, id: string, act: () => Promise<DelayedResult>): Promise<DelayedResult> {
    return (await find(caller, id)) ? act() : "not_found";
  }

  return [
    serviceRoute(
      "get",
      "/v1/delayed",
      {
        summary: "Messages that wait, the next due first",
        scopes: anyPublisher,
        input: ListParams,
        replies: { 200: ListReply },
      },
      async ({ c, caller, params }) => {
        const { messages, next } = await delayed.list(params);
        return c.json({ messages: messages.filter((message) => maySee(caller, message)).map(show), next });
      },
    ),
    serviceRoute(
      "get",
      one,
      { summary: "One delayed message", scopes: anyPublisher, input: OfId, replies: { 200: DelayedReply } },
      async ({ c, caller, params: { id } }) => {
        const found = await find(caller, id);
        if (!found) throw new AppError("NOT_FOUND");
        return c.json(show(found));
      },
    ),
    serviceRoute(
      "patch",
      one,
      {
        summary: "Move it to another time",
        scopes: anyPublisher,
        input: v.strictObject({ id: Name, at: Time }),
        replies: { 200: Result },
      },
      async ({ c, caller, params: { id, at } }) =>
        c.json({ result: await order(caller, id, () => delayed.move(id, at)) }),
    ),
    serviceRoute(
      "delete",
      one,
      { summary: "Cancel it: it will never be delivered", scopes: anyPublisher, input: OfId, replies: { 200: Result } },
      async ({ c, caller, params: { id } }) => c.json({ result: await order(caller, id, () => delayed.cancel(id)) }),
    ),
    serviceRoute(
      "post",
      `${one}/send-now`,
      { summary: "Publish it now", scopes: anyPublisher, input: OfId, mayLackBody: true, replies: { 200: Result } },
      async ({ c, caller, params: { id } }) => c.json({ result: await order(caller, id, () => delayed.sendNow(id)) }),
    ),
  ];
}

/** The product's own (reminders, scheduled chat messages) are an operator's to look at. */
function maySee(caller: Caller, { topic }: DelayedMessage): boolean {
  return hasScope(caller, "admin") || (!isReserved(topic) && hasScope(caller, `publish:${topic}`));
}

function show({ id, state, topic, type, key, deliverAt, createdAt, expireAt, endedAt, reason }: DelayedMessage) {
  return {
    ...{ id, state: state.toLowerCase(), topic, type, key: key || undefined },
    ...{ deliverAt, createdAt, expireAt, endedAt, reason },
  };
}
