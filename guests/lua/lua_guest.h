/* Included before every file of Lua's own sources (-include), which stay unchanged.
 *
 * WebAssembly without its exception proposal cannot leave a function other than by returning, so there is no longjmp. Lua lets its host
 * say how errors travel: here they do not. An error, also one inside pcall, prints its message and ends the program with status 1, and
 * coroutine.yield, which is made of the same jump, is such an error. What raises no error runs as everywhere. */
#ifndef LUA_GUEST_H
#define LUA_GUEST_H

/* The copy of Lua in the crate leaves out os.clock, os.tmpname and more under __wasi__, since it does not link WASI's emulated clocks.
 * Here they are linked: once the C library's headers are in, Lua is compiled as for any ISO C system. */
#include <errno.h>
#include <locale.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#undef __wasi__

struct lua_State;
_Noreturn void lua_guest_error(struct lua_State *L, int status);

#define LUAI_THROW(L, c) lua_guest_error(L, (c)->status)
#define LUAI_TRY(L, c, a) { a }
#define luai_jmpbuf int

/* The same script gives the same output in every run: no seed from the clock for the order of pairs() or for table.sort. */
#define luai_makeseed(L) 0x7e57u
#define l_randomizePivot() 0u

/* WASI has no shell, no temporary names and no temporary files. */
#define l_system(command) ((command) == 0 ? 0 : -1)
#define LUA_TMPNAMBUFSIZE 1
#define lua_tmpnam(buffer, failed) { (void)(buffer); failed = 1; }

#endif
