/** Routes for service keys: list, create, revoke. */

import * as v from "valibot";
import { type Scope, ScopeSchema } from "../../lib/http/index.ts";
import type { ServiceKeyStore } from "./service-key-store.ts";
import { admin, type ServiceRoute, serviceRoute } from "./service-route.ts";

/** More would be `*`. */
const SCOPES_MAX = 100;

const KeyId = v.pipe(
  v.string("must be 1..32 of [A-Za-z0-9]"),
  v.regex(/^[A-Za-z0-9]{1,32}$/, "must be 1..32 of [A-Za-z0-9]"),
);
const Scopes = v.pipe(
  v.array(ScopeSchema, `must be a list of 1 to ${SCOPES_MAX} scopes`),
  v.minLength(1, `must be a list of 1 to ${SCOPES_MAX} scopes`),
  v.maxLength(SCOPES_MAX, `must be a list of 1 to ${SCOPES_MAX} scopes`),
);
const CreateParams = v.strictObject({ id: v.optional(KeyId), scopes: Scopes });
const CreateReply = v.strictObject({ id: v.string(), key: v.string(), scopes: v.array(v.string()) });
const ListReply = v.strictObject({
  keys: v.array(v.strictObject({ id: v.string(), scopes: v.array(v.string()), created: v.number() })),
});

export function serviceKeyRoutes(store: ServiceKeyStore): readonly ServiceRoute[] {
  const path = "/v1/service-keys";
  return [
    serviceRoute(
      "get",
      path,
      { summary: "List service keys", scopes: admin, input: v.strictObject({}), replies: { 200: ListReply } },
      async ({ c }) => c.json({ keys: await store.list() }),
    ),
    serviceRoute(
      "post",
      path,
      {
        summary: "Create a service key; it is shown this once",
        scopes: admin,
        input: CreateParams,
        replies: { 201: CreateReply },
      },
      async ({ c, params }) => {
        const scopes = [...new Set(params.scopes)] as Scope[];
        return c.json({ ...(await store.create(params.id, scopes)), scopes }, 201);
      },
    ),
    serviceRoute(
      "delete",
      `${path}/:id`,
      {
        summary: "Revoke a service key",
        scopes: admin,
        input: v.strictObject({ id: KeyId }),
        replies: { 204: undefined },
      },
      async ({ c, params }) => {
        await store.revoke(params.id);
        return c.body(null, 204);
      },
    ),
  ];
}
