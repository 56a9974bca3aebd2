/** The route of traces: the life of one message. For operators, for it looks at every group. */

import * as v from "valibot";
import { AppError } from "../../lib/errors.ts";
import type { Queue } from "../../lib/mq/index.ts";
import { Name } from "./service-inputs.ts";
import { admin, type ServiceRoute, serviceRoute } from "./service-route.ts";

const TraceReply = v.object({
  id: v.string(),
  isComplete: v.boolean(),
  entriesLookedAt: v.number(),
  records: v.array(v.object({ kind: v.string(), record: v.unknown() })),
  commits: v.array(v.object({ topic: v.string(), partition: v.number(), entry: v.string(), time: v.number() })),
  deliveries: v.array(v.object({ group: v.string(), state: v.string() })),
  deadLetters: v.array(v.object({ id: v.string(), group: v.string(), reason: v.string() })),
});

export function traceRoutes(queue: Queue): readonly ServiceRoute[] {
  return [
    serviceRoute(
      "get",
      "/v1/trace/:id",
      {
        summary: "The life of one message: commits, deliveries, dead letters",
        scopes: admin,
        input: v.strictObject({ id: Name }),
        replies: { 200: TraceReply },
      },
      async ({ c, params }) => {
        const { verdict, ...trace } = await queue.trace(params.id);
        if (verdict === "not_found") {
          const seen = trace.isComplete ? "" : `, as far as ${trace.entriesLookedAt} entries were looked through`;
          throw new AppError("NOT_FOUND", `There is no message of that id${seen}`);
        }
        // A letter's data is shown where the letter is.
        const deadLetters = trace.deadLetters.map(({ data: _data, properties: _properties, ...letter }) => letter);
        return c.json({ ...trace, deadLetters });
      },
    ),
  ];
}
