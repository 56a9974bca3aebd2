/** Messages as CloudEvents 1.0: every attribute, and data that is not touched. */

import { expect, test } from "bun:test";
import * as v from "valibot";
import { cloudEventOf, defineTopic, InvalidMessage } from "../../lib/mq/index.ts";
import { Delivery } from "../../lib/mq/message.ts";

const topic = defineTopic("orders", { schema: v.unknown() });
const event = (header: string, data: string) =>
  cloudEventOf(new Delivery(topic, 0, ["1767323045678-0", [header, data]]));

test("what a message has is an attribute, what it has not is left out", () => {
  expect(JSON.parse(event("m1 order.placed   ", '{"item":"tea"}'))).toEqual({
    specversion: "1.0",
    id: "m1",
    source: "/topics/orders",
    type: "order.placed",
    time: "2026-01-02T03:04:05.678Z",
    datacontenttype: "application/json",
    data: { item: "tea" },
  });
  const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  const full = event(`@t=vip;o=7 m1 order.placed customer-7 12 ${JSON.stringify({ traceparent, secret: "s" })}`, "1");
  expect(JSON.parse(full)).toMatchObject({
    partitionkey: "customer-7",
    sequence: "12",
    tag: "vip",
    originsequence: "7",
    traceparent,
    data: 1,
  });
  expect(full).not.toContain("secret");
});

test.each([
  '{"b":1,"a":9007199254740993,"c":1.0,"d":1e400}',
  '{ "a" : [ ] }',
  '"\\u0000\\ud83d\\ude00"',
  "null",
  "[]",
  '{"a":1,"a":2}',
])("data %s is there byte for byte", (data) => {
  expect(event("m1 t   ", data).endsWith(`"data":${data}}`)).toBe(true);
});

test("an attribute with quotes or braces forges nothing", () => {
  const shown = JSON.parse(event('m"1 t","x":"y k"}{  ', "1"));
  expect(shown).toMatchObject({ id: 'm"1', type: 't","x":"y', partitionkey: 'k"}{' });
  expect(shown.x).toBeUndefined();
});

test.each<[string, string, string]>([
  ["data that is not JSON", "m1 t   ", '{"a":1},"specversion":"2"'],
  ["empty data", "m1 t   ", ""],
  ["an entry of another program", "field", "value"],
  ["properties that are not JSON", "m1 t   {", "1"],
])("%s is refused, for it would break what it stands in", (_, header, data) => {
  expect(() => event(header, data)).toThrow(InvalidMessage);
});

test("a traceparent that is none stays inside", () => {
  expect(event('m1 t   {"traceparent":"<script>"}', "1")).not.toContain("traceparent");
});
