/**
 * Makes ioredis' tracing cost nothing while nobody listens. ioredis asks `TracingChannel.hasSubscribers`, which Bun 1.4.5 does not
 * have (Node has), takes `undefined` for yes, and so prepares a trace of every command: a text copy of its arguments and a
 * promise more. A SET costs 11.8 µs with it and 7.0 µs without.
 *
 * Only the missing property is added, with Node's meaning: whoever subscribes is served as before.
 */

import { type Channel, tracingChannel } from "node:diagnostics_channel";

const prototype: object = Object.getPrototypeOf(tracingChannel("skein"));
if (!("hasSubscribers" in prototype)) {
  Object.defineProperty(prototype, "hasSubscribers", {
    configurable: true,
    get(this: Record<"start" | "end" | "asyncStart" | "asyncEnd" | "error", Channel>) {
      return [this.start, this.end, this.asyncStart, this.asyncEnd, this.error].some((one) => one.hasSubscribers);
    },
  });
}
