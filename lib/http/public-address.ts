/**
 * What may be called outside: https URLs on two ports, and public addresses. Whoever gives us a URL must not reach what only we can
 * reach: our Redis, a neighbour's admin page, a cloud's metadata service. The URL parser has turned every notation of an
 * address (decimal, octal, hex, mapped) into one form before it is judged here, and names are judged by what they resolve to.
 */

import { BlockList, isIP } from "node:net";
import { AppError } from "../errors.ts";

const URL_CHARACTERS_MAX = 1_000;
/** Beside them an https server is an internal one more often than not. */
const PORTS: ReadonlySet<string> = new Set(["", "443", "8443"]);

/** IANA's special-purpose registries: everything that is not the public internet. */
const SPECIAL_V4 = [
  ["0.0.0.0", 8],
  ["10.0.0.0", 8],
  ["100.64.0.0", 10],
  ["127.0.0.0", 8],
  ["169.254.0.0", 16],
  ["172.16.0.0", 12],
  ["192.0.0.0", 24],
  ["192.0.2.0", 24],
  ["192.31.196.0", 24],
  ["192.52.193.0", 24],
  ["192.88.99.0", 24],
  ["192.168.0.0", 16],
  ["192.175.48.0", 24],
  ["198.18.0.0", 15],
  ["198.51.100.0", 24],
  ["203.0.113.0", 24],
  ["224.0.0.0", 4],
  ["240.0.0.0", 4],
] as const;
/** Public IPv6 lies in here; mapped, translated, local, site and multicast addresses lie outside. */
const GLOBAL_V6 = ["2000::", 3] as const;
/** Within it: protocol assignments with Teredo, documentation, and 6to4, which wraps any IPv4 address. */
const SPECIAL_V6 = [
  ["2001::", 23],
  ["2001:db8::", 32],
  ["2002::", 16],
  ["2620:4f:8000::", 48],
  ["3fff::", 20],
] as const;

const special = new BlockList();
for (const [network, prefix] of SPECIAL_V4) special.addSubnet(network, prefix, "ipv4");
for (const [network, prefix] of SPECIAL_V6) special.addSubnet(network, prefix, "ipv6");
const global = new BlockList();
global.addSubnet(...GLOBAL_V6, "ipv6");

/** An address as text, without brackets. Anything that is none is not public. */
export function isPublicAddress(address: string): boolean {
  const family = isIP(address);
  if (family === 4) return !special.check(address, "ipv4");
  return family === 6 && global.check(address, "ipv6") && !special.check(address, "ipv6");
}

/**
 * The URL when it may be called as far as its text tells. With `allowPrivate` http, any port and any address will do. Throws
 * INVALID that says what is wrong and does not repeat the URL.
 */
export function checkOutboundUrl(text: string, { allowPrivate }: { readonly allowPrivate: boolean }): URL {
  // The parser drops line breaks and tabs without a word.
  if (text.length > URL_CHARACTERS_MAX || !/^[\x21-\x7e]+$/.test(text) || !URL.canParse(text)) {
    throw refusal(`must be an https URL of at most ${URL_CHARACTERS_MAX} characters, in visible ASCII`);
  }
  const url = new URL(text);
  if (url.protocol !== "https:" && !(allowPrivate && url.protocol === "http:"))
    throw refusal("must begin with https://");
  if (url.username !== "" || url.password !== "") throw refusal("must not hold a user name or password");
  if (url.hostname === "") throw refusal("must name a host");
  if (allowPrivate) return url;
  if (!PORTS.has(url.port)) throw refusal("must use port 443 or 8443");
  const address = addressOf(url);
  if (address !== undefined && !isPublicAddress(address)) throw refusal("must not name a private address");
  return url;
}

/** The push services of the browsers: FCM, Mozilla autopush, WNS, Apple. */
const PUSH_SERVICES = [
  /^fcm\.googleapis\.com$/,
  /\.push\.services\.mozilla\.com$/,
  /\.notify\.windows\.com$/,
  /\.push\.apple\.com$/,
];

/**
 * Whether a URL is one that a browser's push service may have given. Others are not posted to by Web Push: an open relay for
 * signed requests is nothing that a user should get by registering a URL.
 */
export function isPushService(endpoint: string): boolean {
  return URL.canParse(endpoint) && PUSH_SERVICES.some((host) => host.test(new URL(endpoint).hostname));
}

/** The address that stands in place of a host name; undefined: a name. */
export function addressOf({ hostname }: URL): string | undefined {
  const host = hostname.replace(/^\[|\]$/g, "");
  return isIP(host) === 0 ? undefined : host;
}

function refusal(message: string): AppError {
  return new AppError("INVALID", `url ${message}`, { issues: [{ path: "url", message }] });
}
