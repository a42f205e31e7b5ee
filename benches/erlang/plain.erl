%% A gen_server per player, and one per keeper on another node: each reward is one gen_server:call to the keeper's
%% pid before it is answered.
-module(plain).
-behaviour(gen_server).
-export([start/2, points/1, new_keepers/1]).
-export([init/1, handle_call/3, handle_cast/2]).

start(Keepers, Count) ->
    [begin {ok, Pid} = gen_server:start(?MODULE, {player, Keeper}, []), Pid end
     || Keeper <- rpc:call(Keepers, ?MODULE, new_keepers, [Count])].

new_keepers(Count) ->
    [begin {ok, Pid} = gen_server:start(?MODULE, keeper, []), Pid end || _ <- lists:seq(1, Count)].

points(Player) ->
    gen_server:call(Player, points, infinity).

init({player, Keeper}) -> {ok, {Keeper, 0}};
init(keeper) -> {ok, 0}.

handle_call({reward, N}, _From, {Keeper, Points}) ->
    New = Points + N,
    ok = gen_server:call(Keeper, {put, New}, infinity),
    {reply, New, {Keeper, New}};
handle_call(points, _From, {Keeper, Points} = State) ->
    {reply, {Points, gen_server:call(Keeper, get, infinity)}, State};
handle_call({put, Points}, _From, _) -> {reply, ok, Points};
handle_call(get, _From, Points) -> {reply, Points, Points}.

handle_cast(_, State) -> {noreply, State}.
