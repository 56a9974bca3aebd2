/** How a device asks to be woken, and what it is answered: bodies of HTTP and inputs of RPC, as in requests.ts. */

import * as v from "valibot";
import { IdSchema } from "./protocol.ts";

/** What the outbound client takes. */
const URL_CHARACTERS_MAX = 1_000;
/** APNs' are 64 to 200 characters of hex, FCM's some 160 to 1 000. */
const TOKEN_CHARACTERS_MAX = 4_096;
/** RFC 8291: an uncompressed point of P-256 begins with 4, and 16 bytes of secret. */
const POINT_BYTES = 65;
const POINT_UNCOMPRESSED = 4;
const AUTH_BYTES = 16;

const Url = v.pipe(
  v.string("must be a URL"),
  v.maxLength(URL_CHARACTERS_MAX, `must be at most ${URL_CHARACTERS_MAX} characters`),
  v.url("must be a URL"),
);
const Key = (fits: (bytes: Uint8Array) => boolean, message: string) =>
  v.pipe(
    v.string(message),
    v.regex(/^[A-Za-z0-9_-]{1,128}={0,2}$/, message),
    v.check((text) => fits(Buffer.from(text, "base64url")), message),
  );
const Token = v.pipe(
  v.string("must be a string"),
  v.regex(/^[\x21-\x7e]+$/, "must be printable ASCII without blanks"),
  v.maxLength(TOKEN_CHARACTERS_MAX, `must be at most ${TOKEN_CHARACTERS_MAX} characters`),
);
const BundleId = v.pipe(v.string("must be a bundle id"), v.regex(/^[A-Za-z0-9.-]{1,155}$/, "must be a bundle id"));

/** As `PushSubscription.toJSON()` gives it. */
const Subscription = v.strictObject({
  endpoint: Url,
  expirationTime: v.optional(v.nullable(v.number("must be a number or null"))),
  keys: v.strictObject({
    p256dh: Key(
      (bytes) => bytes.length === POINT_BYTES && bytes[0] === POINT_UNCOMPRESSED,
      `must be ${POINT_BYTES} bytes in base64url, a P-256 point`,
    ),
    auth: Key((bytes) => bytes.length === AUTH_BYTES, `must be ${AUTH_BYTES} bytes in base64url`),
  }),
});

const KINDS = {
  webpush: { subscription: Subscription },
  webhook: { url: Url },
  apns: { token: Token, topic: v.optional(BundleId) },
  fcm: { token: Token },
} as const;
export const PUSH_KINDS = ["webpush", "webhook", "apns", "fcm"] as const;
export type PushKind = (typeof PUSH_KINDS)[number];
const KIND_MESSAGE = `must be one of ${PUSH_KINDS.join(", ")}`;

const withKind = <K extends PushKind, E extends v.ObjectEntries>(kind: K, more: E) =>
  v.strictObject({ kind: v.literal(kind), ...KINDS[kind], ...more });
const variant = <E extends v.ObjectEntries>(more: E) =>
  v.variant(
    "kind",
    [withKind("webpush", more), withKind("webhook", more), withKind("apns", more), withKind("fcm", more)],
    KIND_MESSAGE,
  );

const AddressSchema = variant({});
/** Where a device is reached. */
export type PushAddress = v.InferOutput<typeof AddressSchema>;

/** Which fields are needed is the kind's; the entries describe all of them. */
export const RegisterPushParams = Object.assign(variant({ device: IdSchema }), {
  entries: {
    device: IdSchema,
    kind: v.picklist(PUSH_KINDS, KIND_MESSAGE),
    subscription: v.optional(Subscription),
    url: v.optional(Url),
    token: v.optional(Token),
    topic: v.optional(BundleId),
  },
});
export type RegisterPushParams = v.InferOutput<typeof RegisterPushParams>;

/** Of a webhook the secret that its calls are signed with, told this once. */
export const RegisterPushReply = v.strictObject({ secret: v.optional(v.string()) });
export type RegisterPushReply = v.InferOutput<typeof RegisterPushReply>;

/** What a browser subscribes with: `applicationServerKey`. */
export const PushKeyReply = v.strictObject({ publicKey: v.string() });
