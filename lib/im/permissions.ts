/**
 * Who may do what in a conversation: the one table. Scripts decide within the commit, so they are given the row that they
 * need as an argument (`rightsOf`) and hold no rule of their own about roles.
 *
 * Beside the role there is what the table cannot say: nobody acts on a member of his own or a higher rank; a muted member
 * may do nothing that others see of him (`isSpeaking`); in a dissolved conversation nobody changes anything.
 */

import type { ConversationType, Role } from "./protocol.ts";

/** In a direct conversation both are members: nobody owns the other. In a channel the members are its subscribers. */
const PERMISSIONS = {
  /** Send, edit one's own, react, be seen typing. */
  speak: { direct: ["member"], group: ["owner", "admin", "member"], channel: ["owner", "admin"] },
  /** Recall one's own message, for a while. */
  recallOwn: { direct: ["member"], group: ["owner", "admin", "member"], channel: ["owner", "admin", "member"] },
  /** Recall anybody's, at any time. */
  recallAny: { direct: [], group: ["owner", "admin"], channel: ["owner", "admin"] },
  invite: { direct: [], group: ["owner", "admin", "member"], channel: ["owner", "admin"] },
  leave: { direct: [], group: ["owner", "admin", "member"], channel: ["owner", "admin", "member"] },
  kick: { direct: [], group: ["owner", "admin"], channel: ["owner", "admin"] },
  muteMember: { direct: [], group: ["owner", "admin"], channel: ["owner", "admin"] },
  /** Make admins and members of each other. */
  giveRole: { direct: [], group: ["owner"], channel: ["owner"] },
  transfer: { direct: [], group: ["owner"], channel: ["owner"] },
  changeSettings: { direct: [], group: ["owner", "admin"], channel: ["owner", "admin"] },
  dissolve: { direct: [], group: ["owner"], channel: ["owner"] },
} as const satisfies Record<string, Record<ConversationType, readonly Role[]>>;

export type Action = keyof typeof PERMISSIONS;
export const ACTIONS = Object.keys(PERMISSIONS) as readonly Action[];

/** As members are stored. */
export const ROLE_LETTERS = { owner: "o", admin: "a", member: "m" } as const satisfies Record<Role, string>;

export function mayRole(action: Action, type: ConversationType, role: Role): boolean {
  return (PERMISSIONS[action][type] as readonly Role[]).includes(role);
}

/** The table's row as scripts read it (im_may): `direct=m group=oam channel=oa`. */
export function rightsOf(action: Action): string {
  return Object.entries(PERMISSIONS[action])
    .map(([type, roles]) => `${type}=${lettersOf(roles)}`)
    .join(" ");
}

/** The roles that may speak in a channel. Elsewhere every member may, which is why a send need not look at the type. */
export const CHANNEL_SPEAKERS = lettersOf(PERMISSIONS.speak.channel);

function lettersOf(roles: readonly Role[]): string {
  return roles.map((role) => ROLE_LETTERS[role]).join("");
}
