/**
 * A message as services outside see it: a CloudEvents 1.0 event in JSON. The data is the publisher's own text, byte for byte: it is
 * looked at, for one that is not JSON would break whatever the event stands in, and put in as it lies in the stream, so numbers
 * beyond 2^53 and the order of fields survive.
 *
 *   {"specversion":"1.0","id":"01J…","source":"/topics/orders","type":"order.placed","time":"2026-01-02T03:04:05.678Z",
 *    "datacontenttype":"application/json","partitionkey":"customer-7","tag":"vip","data":{"item":"tea"}}
 *
 * Left out when the message has none: `partitionkey` its key, `sequence` its number under that key (text, as the extension asks),
 * `originsequence` of a late-comer, `tag`, `traceparent`. Other properties stay inside.
 */

import type { HalfDetails } from "./half.ts";
import { InvalidMessage, type Message } from "./message.ts";

type Shown = Pick<
  Message<unknown>,
  "id" | "topic" | "entry" | "type" | "time" | "key" | "sequence" | "tag" | "originSequence" | "properties" | "raw"
>;

/** W3C trace context: nothing else is let out under that name. */
const TRACEPARENT_PATTERN = /^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$/;

/** JSON text. Throws InvalidMessage when the entry is none of ours, or its data or properties are not JSON. */
export function cloudEventOf(message: Shown): string {
  assertIsJson(message);
  const { traceparent } = message.properties;
  const attributes = JSON.stringify({
    specversion: "1.0",
    id: message.id,
    source: `/topics/${message.topic}`,
    type: message.type,
    time: new Date(message.time).toISOString(),
    datacontenttype: "application/json",
    partitionkey: message.key || undefined,
    sequence: message.sequence === undefined ? undefined : String(message.sequence),
    tag: message.tag || undefined,
    originsequence: message.originSequence,
    traceparent: traceparent && TRACEPARENT_PATTERN.test(traceparent) ? traceparent : undefined,
  });
  return `${attributes.slice(0, -1)},"data":${message.raw}}`;
}

/** A half message as its producers see it, in JSON: with its message as an event while it has one. */
export function halfJson({ message, ...half }: HalfDetails): string {
  const { id, state, topic, producerGroup, checkUrl, checks, preparedAt, nextCheckAt, messageId, duplicate } = half;
  const text = JSON.stringify({
    ...{ id, state, topic, producerGroup, checkUrl, checks, preparedAt, nextCheckAt, messageId },
    duplicate: duplicate || undefined,
  });
  return message ? `${text.slice(0, -1)},"event":${cloudEventOf(message)}}` : text;
}

function assertIsJson({ entry, id, raw }: Shown): void {
  if (id === "")
    throw new InvalidMessage(entry, [{ path: "", message: "the entry does not have the header of a message" }]);
  try {
    JSON.parse(raw);
  } catch (cause) {
    throw new InvalidMessage(entry, [{ path: "data", message: `is not JSON: ${(cause as Error).message}` }]);
  }
}
