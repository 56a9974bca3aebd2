/** Fields that several routes for services take, each with its limit and the words that refuse what does not fit. */

import * as v from "valibot";
import { AppError } from "../../lib/errors.ts";
import { type Caller, hasScope } from "../../lib/http/index.ts";
import { ID_PATTERN } from "../../lib/id.ts";
import { isGroupOfTable, isOpenToServices, isReserved } from "../../lib/rpc/index.ts";

const NAME_MESSAGE = "must be 1..64 of [A-Za-z0-9_.-]";
/** A name of a topic, group, tag, message or transaction. */
export const Name = v.pipe(v.string(NAME_MESSAGE), v.regex(ID_PATTERN, NAME_MESSAGE));

/** Unix ms, as far as JavaScript's dates go. */
export const TIME_MS_MAX = 8_640_000_000_000_000;

export const whole = (min: number, max: number) => {
  const message = `must be a whole number from ${min} to ${max}`;
  return v.pipe(v.number(message), v.integer(message), v.minValue(min, message), v.maxValue(max, message));
};

export const Time = whole(0, TIME_MS_MAX);

/** An order key. */
export const Key = v.pipe(
  v.string("must be 1 to 256 characters without white space"),
  v.regex(/^[^\s\p{Cc}\p{Cs}]{1,256}$/u, "must be 1 to 256 characters without white space"),
);

/** Throws FORBIDDEN: what the product says is the product's to say. */
export function assertMayWrite(topic: string): void {
  if (isReserved(topic))
    throw new AppError("FORBIDDEN", `topic ${topic} belongs to the product: services may only read it`);
}

/** Throws FORBIDDEN: an inner topic of the product. */
export function assertMayRead(topic: string): void {
  if (!isOpenToServices(topic)) throw new AppError("FORBIDDEN", `topic ${topic} is not for services to read`);
}

/** Throws FORBIDDEN for groups that are not services' own: those are an operator's to look after. */
export function assertMayOperate(caller: Caller, topic: string, group: string): void {
  if (!hasScope(caller, "admin")) assertMayOwn(topic, group);
}

/** Throws FORBIDDEN: an inner topic, or a group that a role of the product is. */
export function assertMayOwn(topic: string, group: string): void {
  assertMayRead(topic);
  if (isGroupOfTable(topic, group))
    throw new AppError("FORBIDDEN", `group ${group} of ${topic} belongs to the product`);
}
