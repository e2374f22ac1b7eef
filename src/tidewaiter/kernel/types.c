/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * No program: one of each thing that the kernel half and Python share, so that the compiled file has its type. Compiled by
 * any compiler that writes BTF, which is why Python knows the layouts where nothing can be built for the kernel too.
 */
#include <linux/types.h>
#include "types.h"

struct tw_owner a_owner;
struct tw_connection a_connection;
struct tw_flow_key a_flow_key;
struct tw_listener_key a_listener_key;
struct tw_listener a_listener;
struct tw_event a_event;
struct tw_text a_text;
struct tw_process a_process;
struct tw_path a_path;
struct tw_bits a_bits;
struct tw_named a_named;
struct tw_block_key a_block_key;
struct tw_range_key a_range_key;
struct tw_value_key a_value_key;
struct tw_others a_others;
struct tw_policy a_policy;
struct tw_rule a_rule;
struct tw_config a_config;
struct tw_admission a_admission;
enum tw_verdict one_verdict;
enum tw_direction one_direction;
enum tw_tier one_tier;
enum tw_home one_home;
enum tw_flag one_flag;
enum tw_closing one_closing;
enum tw_event_kind one_event_kind;
enum tw_dimension one_dimension;
enum tw_place one_place;
enum tw_way one_way;
enum tw_counter one_counter;
