/** A message as services write it, in a batch or in a transaction, and how the queue takes it. */

import * as v from "valibot";
import type { PublishInput } from "../../lib/mq/index.ts";
import { Key, Name, Time } from "./service-inputs.ts";

/** What a message is called whose publisher did not say: CloudEvents asks for a type. */
const DEFAULT_TYPE = "message";
const TRACEPARENT_PATTERN = /^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$/;

export const MessageParams = v.strictObject({
  data: v.unknown(),
  key: v.exactOptional(Key),
  tag: v.exactOptional(Name),
  dedupId: v.exactOptional(
    v.pipe(v.string(), v.minLength(1, "must not be empty"), v.maxLength(256, "must be at most 256 characters")),
  ),
  deliverAt: v.exactOptional(Time),
  expireAt: v.exactOptional(Time),
  id: v.exactOptional(Name),
  type: v.exactOptional(v.pipe(v.string(), v.regex(/^[A-Za-z0-9_.-]{1,128}$/, "must be 1..128 of [A-Za-z0-9_.-]"))),
  traceparent: v.exactOptional(v.pipe(v.string(), v.regex(TRACEPARENT_PATTERN, "must be a W3C traceparent"))),
});
const { deliverAt: _deliverAt, ...halfEntries } = MessageParams.entries;
/** Of a transaction: it is published when it is committed, and not later. */
export const HalfMessageParams = v.strictObject(halfEntries);

/** `raw`: the text of its data, as it was written. A message without a trace of its own is part of the request's. */
export function toPublishInput(
  message: v.InferOutput<typeof MessageParams>,
  raw: string,
  requestTraceparent: string | undefined,
): PublishInput<unknown> {
  const { data: _parsed, type = DEFAULT_TYPE, traceparent = requestTraceparent, ...rest } = message;
  const isTraced = traceparent !== undefined && TRACEPARENT_PATTERN.test(traceparent);
  return { ...rest, type, raw, ...(isTraced ? { properties: { traceparent } } : {}) };
}
