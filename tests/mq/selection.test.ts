import { expect, test } from "bun:test";
import { Delivery } from "../../lib/mq/message.ts";
import { isExpired, isSelected } from "../../lib/mq/selection.ts";
import { openTestQueue } from "../support/queue.ts";

const HEADER = "id t k  ";

test("a message is for a group unless it is another's, of another tag, or expired", async () => {
  await using t = await openTestQueue("mq-selection");
  const of = (attributes: string) => new Delivery(t.topic, 0, ["1-0", [`${attributes}${HEADER}`, "{}"]]);
  const all = { group: "g", tags: undefined };
  const vip = { group: "g", tags: new Set(["vip", "gold"]) };
  expect([isSelected(of(""), all, 5), isSelected(of(""), vip, 5)]).toEqual([true, false]);
  expect([isSelected(of("@t=gold "), all, 5), isSelected(of("@t=gold "), vip, 5)]).toEqual([true, true]);
  expect(isSelected(of("@t=poor "), vip, 5)).toBe(false);
  expect([isSelected(of("@g=g;r=1 "), all, 5), isSelected(of("@g=h;r=1 "), all, 5)]).toEqual([true, false]);
  expect([4, 5, 6].map((now) => isSelected(of("@x=5 "), all, now))).toEqual([true, true, false]);
  expect([4, 5, 6].map((now) => isExpired(of("@x=5 "), now))).toEqual([false, false, true]);
  expect(isExpired(of(""), 5)).toBe(false);
});
