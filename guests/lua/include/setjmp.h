/* Stands before the C library's setjmp.h, which refuses to be included here. Lua's sources include it but, with lua_guest.h, use none of it. */
