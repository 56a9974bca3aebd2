/** Routes for what operators do with users: erase one, and see how far that is. */

import * as v from "valibot";
import type { Clock } from "../../lib/clock.ts";
import { ErasureReply, UserIdSchema } from "../../lib/im/index.ts";
import type { Logic } from "./methods.ts";
import { admin, type ServiceRoute, serviceRoute } from "./service-route.ts";

/** How long a DELETE waits for the erasure to be done: of a small installation it is, in some three seconds. */
const WAIT_MS = 8_000;
const LOOK_EVERY_MS = 200;

export interface UserRouteParts {
  readonly logic: Pick<Logic, "eraseUser" | "getErasure">;
  readonly clock: Clock;
}

export function userRoutes({ logic, clock }: UserRouteParts): readonly ServiceRoute[] {
  const path = "/v1/users/:id";
  const input = v.strictObject({ id: UserIdSchema });
  return [
    serviceRoute(
      "delete",
      path,
      {
        summary: "Erase a user: 200 when it is done, 202 while it goes on",
        scopes: admin,
        input,
        replies: { 200: ErasureReply, 202: ErasureReply },
      },
      async ({ c, params: { id: user } }) => {
        let report = await logic.eraseUser({ user });
        for (let waited = 0; report.state === "running" && waited < WAIT_MS; waited += LOOK_EVERY_MS) {
          await clock.sleep(LOOK_EVERY_MS, c.req.raw.signal);
          if (c.req.raw.signal.aborted) break;
          report = await logic.getErasure({ user });
        }
        return c.json(report, report.state === "done" ? 200 : 202);
      },
    ),
    serviceRoute(
      "get",
      `${path}/erasure`,
      {
        summary: "How far the erasure of a user is, until 31 days after its end",
        scopes: admin,
        input,
        replies: { 200: ErasureReply },
      },
      async ({ c, params: { id: user } }) => c.json(await logic.getErasure({ user })),
    ),
  ];
}
