/** `skein token <user>`: a user token, minted by the running Skein. */

import { defineCommand } from "citty";
import { Failure, findRunning } from "./running.ts";

export const token = defineCommand({
  meta: { name: "token", description: "Mint a user token" },
  args: {
    user: { type: "positional", description: "The user's id", required: true },
    ttl: { type: "string", description: "Seconds until it expires (default: the server's)" },
    json: { type: "boolean", default: false, description: "Print {user, token, expiresAt} as JSON" },
  },
  async run({ args }) {
    const { url, serviceKey } = findRunning();
    const minted = await mintToken({
      url,
      serviceKey,
      user: args.user,
      ...(args.ttl === undefined ? {} : { ttl: args.ttl }),
    });
    console.log(args.json ? JSON.stringify(minted) : minted.token);
  },
});

export interface Minted {
  readonly token: string;
}

/** Throws Failure with the server's own words when it refuses. */
export async function mintToken(options: {
  readonly url: string;
  readonly serviceKey: string;
  readonly user: string;
  /** Seconds, as text: the server judges it. */
  readonly ttl?: string;
}): Promise<Minted> {
  const { url, serviceKey, user, ttl } = options;
  const response = await fetch(`${url}/v1/tokens`, {
    method: "POST",
    headers: { authorization: `Bearer ${serviceKey}`, "content-type": "application/json" },
    body: JSON.stringify({ user, ...(ttl === undefined ? {} : { ttlSeconds: Number(ttl) }) }),
  }).catch((error: Error) => {
    throw new Failure(`${url} does not answer: ${error.message}`);
  });
  const body = (await response.json()) as Minted & { detail?: string };
  if (!response.ok) throw new Failure(`no token for ${JSON.stringify(user)}: ${body.detail ?? response.status}`);
  return body;
}
